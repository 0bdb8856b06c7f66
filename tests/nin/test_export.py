"""Exported files: each computes what its network computes, and says what it is."""

import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from trained_networks import DATA, TINY, keep, make

import nin.export
from nin.data import load
from nin.export import FORMATS, Check, Format, export, main
from nin.fetch import DataError
from nin.heads import HEADS
from nin.model import predict
from nin.model_card import FROM_FILE, INPUT
from nin.pooling import POOLINGS
from nin.predict import read_images
from nin.serving import triton_repository
from nin.spec import ModelSpec
from nin.weights import Card, Classifier, TrainedNetwork


def exported(trained: TrainedNetwork, kind: str, path: Path, **options: bool) -> Check:
    return export(trained, load(trained.card.data), kind, path, **options)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", FORMATS)
def test_file_computes_what_the_network_does_for_any_number_of_images(
    kind: str, images: Tensor, tmp_path: Path
) -> None:
    trained, path = make(), tmp_path / "network"
    check = exported(trained, kind, path)
    assert check.examples == 60
    assert check.largest_difference < 1e-5
    assert check.different_labels == 0
    run = FORMATS[kind].read(path)
    for count in (1, 2, 7, 60):
        torch.testing.assert_close(run(images[:count]), trained.classifier()(images[:count]), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_onnx_runtime_alone_runs_it_and_finds_the_classes(images: Tensor, tmp_path: Path) -> None:
    exported(make(), "onnx", tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    (wanted,) = session.get_inputs()
    assert (wanted.name, wanted.type, wanted.shape) == ("images", "tensor(uint8)", ["batch", 1, 28, 28])
    (given,) = session.get_outputs()
    assert (given.name, given.type, given.shape) == ("logits", "tensor(float)", ["batch", 10])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == [str(k) for k in range(10)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]  # no weights on the side


@pytest.mark.slow
def test_probabilities_are_the_softmax_of_the_logits(images: Tensor, tmp_path: Path) -> None:
    trained = make()
    exported(trained, "onnx", tmp_path / "a.onnx", probabilities=True)
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    found = torch.from_numpy(session.run(["probabilities"], {INPUT: images.numpy()})[0])
    torch.testing.assert_close(found.sum(dim=1), torch.ones(60))
    torch.testing.assert_close(found, predict(trained.classifier(), images), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [40, 20])
def test_resizing_is_inside(image_size: int, tmp_path: Path) -> None:
    trained = make(data=replace(DATA, image_size=image_size))
    assert trained.card.in_shape == (1, image_size, image_size)
    assert exported(trained, "onnx", tmp_path / "a.onnx").largest_difference < 1e-5


def test_only_as_many_images_are_compared_as_asked_for(tmp_path: Path) -> None:
    assert export(make(), load(DATA), "pt2", tmp_path / "a.pt2", examples=5).examples == 5


def test_a_single_image_is_enough_to_compare(tmp_path: Path) -> None:
    assert export(make(), load(DATA), "pt2", tmp_path / "a.pt2", examples=1).examples == 1


def test_a_single_test_image_is_enough_for_every_format(tmp_path: Path) -> None:
    data = replace(DATA, test_examples=1)
    check = export(make(data=data), load(data), "pt2", tmp_path / "a.pt2")
    assert check.examples == 1


class Branching(torch.nn.Module):
    """Goes a way that the values decide, as no tracer can follow."""

    def forward(self, logits_NK: Tensor) -> Tensor:
        return logits_NK if logits_NK.sum() > 0 else -logits_NK


class Frozen(torch.nn.Module):
    """Has the number of images as a constant once it is traced."""

    def forward(self, logits_NK: Tensor) -> Tensor:
        return logits_NK.reshape(int(logits_NK.shape[0]), -1)


@pytest.mark.parametrize(
    ("layer", "kind", "message"),
    [
        (Branching(), "pt2", "pt2 cannot express this network"),
        (Frozen(), "torchscript", "the exported torchscript file does not run"),
    ],
)
def test_what_a_format_cannot_take_is_one_line(layer: torch.nn.Module, kind: str, message: str, tmp_path: Path) -> None:
    trained = make()
    trained.network.head.append(layer)
    with pytest.raises(ValueError, match=message) as caught:
        export(trained, load(DATA), kind, tmp_path / "exported")
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_accuracy_is_the_files_own(tmp_path: Path) -> None:
    trained, test = make(), load(DATA).test
    right = (trained.classifier()(test.images).argmax(dim=1) == test.labels).float().mean()
    assert exported(trained, "pt2", tmp_path / "a.pt2").accuracy == pytest.approx(float(right))


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_a_file_that_computes_something_else_is_an_error_and_is_not_kept(
    error: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = make()

    def write(classifier: Classifier, images: Tensor, path: Path, card: Card) -> None:
        path.write_text("a file")

    def read(path: Path) -> nin.export.Runner:
        return lambda images: trained.classifier()(images) + error

    (tmp_path / "b.pt2").write_text("an earlier file")
    monkeypatch.setitem(FORMATS, "pt2", Format(".pt2", write, read, ""))
    for name in ("a.pt2", "b.pt2"):
        with pytest.raises(ValueError, match="differs from the network"):
            exported(trained, "pt2", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["b.pt2"]
    assert (tmp_path / "b.pt2").read_text() == "an earlier file"


def test_a_diverged_network_is_not_exported(tmp_path: Path) -> None:
    trained = make()
    next(trained.network.parameters()).data.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        exported(trained, "pt2", tmp_path / "a.pt2")


@pytest.mark.slow
def test_what_onnx_cannot_express_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ONNX cannot express this network .* use --format pt2") as caught:
        exported(make(replace(TINY, pooling="pyramid")), "onnx", tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "model",
    [
        *(pytest.param(replace(TINY, pooling=pooling), id=pooling) for pooling in POOLINGS),
        *(pytest.param(replace(TINY, head=head, hidden=16), id=head) for head in HEADS),
        *(pytest.param(replace(TINY, activation=name), id=name) for name in ("maxout2", "gelu", "batchnorm-relu")),
    ],
)
def test_every_network_in_every_format(model: ModelSpec, kind: str, tmp_path: Path) -> None:
    if (model.pooling, kind) == ("pyramid", "onnx"):
        pytest.skip("ONNX has no adaptive maximum pooling")
    assert exported(make(model), kind, tmp_path / "network").largest_difference < 1e-4


# The Triton inference server


def model_config() -> type:
    """The parts of Triton's model_config.proto that a configuration here uses, under their names and numbers there."""
    scalar = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for name, number in (("TYPE_INVALID", 0), ("TYPE_UINT8", 2), ("TYPE_FP32", 11)):
        types.value.add(name=name, number=number)
    messages: dict[str, list[tuple[str, int, int, str, bool]]] = {
        "ModelInput": [
            ("name", 1, scalar.TYPE_STRING, "", False),
            ("data_type", 2, scalar.TYPE_ENUM, "DataType", False),
            ("dims", 4, scalar.TYPE_INT64, "", True),
        ],
        "ModelOutput": [
            ("name", 1, scalar.TYPE_STRING, "", False),
            ("data_type", 2, scalar.TYPE_ENUM, "DataType", False),
            ("dims", 3, scalar.TYPE_INT64, "", True),
            ("label_filename", 4, scalar.TYPE_STRING, "", False),
        ],
        "ModelDynamicBatching": [("max_queue_delay_microseconds", 2, scalar.TYPE_UINT64, "", False)],
        "ModelConfig": [
            ("name", 1, scalar.TYPE_STRING, "", False),
            ("backend", 17, scalar.TYPE_STRING, "", False),
            ("max_batch_size", 4, scalar.TYPE_INT32, "", False),
            ("input", 5, scalar.TYPE_MESSAGE, "ModelInput", True),
            ("output", 6, scalar.TYPE_MESSAGE, "ModelOutput", True),
            ("dynamic_batching", 11, scalar.TYPE_MESSAGE, "ModelDynamicBatching", False),
        ],
    }
    for message, parts in messages.items():
        description = file.message_type.add(name=message)
        for name, number, kind, of, repeated in parts:
            label = scalar.LABEL_REPEATED if repeated else scalar.LABEL_OPTIONAL
            part = description.field.add(name=name, number=number, type=kind, label=label)
            if of:
                part.type_name = f".inference.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


@pytest.mark.slow
def test_triton_repository_describes_its_own_onnx_file(tmp_path: Path) -> None:
    trained = make()
    exported(trained, "onnx", tmp_path / "a.onnx", probabilities=True)
    model = triton_repository(tmp_path / "models", "clothes", tmp_path / "a.onnx", trained.card, "probabilities")
    assert model == tmp_path / "models" / "clothes"
    config = text_format.Parse((model / "config.pbtxt").read_text(), model_config()())
    session = onnxruntime.InferenceSession(model / "1" / "model.onnx")
    (wanted,), (given,) = session.get_inputs(), session.get_outputs()
    types = {"tensor(uint8)": 2, "tensor(float)": 11}
    assert config.name == model.name
    assert config.backend == "onnxruntime"
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    for described, there in zip([*config.input, *config.output], [wanted, given], strict=True):
        assert described.name == there.name
        assert described.data_type == types[there.type]
        assert ["batch", *described.dims] == there.shape
    labels = (model / config.output[0].label_filename).read_text().splitlines()
    assert tuple(labels) == trained.card.classes


# As a user types it


def test_command_writes_the_file_and_a_card_beside_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = keep(make(), tmp_path)
    assert main(["2x:0", "--results", str(tmp_path), "--triton", str(tmp_path / "models")]) == 0
    assert weights.with_suffix(".onnx").exists()
    card = (weights.parent / f"{weights.stem}.onnx.md").read_text()
    network = make().card
    for fact in (
        "# num_1x1/smoke/2x:0",
        "num_1x1=2",
        f"{network.params_trunk + network.params_head:,} (trunk",
        f"{network.gflops:.4f} per image",
        "uint8 (N, 1, 28, 28)",
        "`logits`: float32 (N, 10)",
        "name=synthetic",
        network.data_checksum,
        "epochs=3",
        "90.00%, 95 % interval 79.85% to 95.34% (Wilson), on 60 test images",
        "60 test images: largest difference",
        f"torch {torch.__version__}",
        "Softmax makes probabilities of them",
    ):
        assert fact in card
    assert (tmp_path / "models" / "num_1x1-smoke-2x-0" / "config.pbtxt").exists()
    assert "tritonserver --model-repository" in capsys.readouterr().out


def test_logits_and_probabilities_are_files_of_their_own(tmp_path: Path) -> None:
    weights = keep(make(), tmp_path)
    command = ["2x:0", "--results", str(tmp_path), "--format", "pt2"]
    for options in ([], ["--probabilities"], []):
        assert main([*command, *options]) == 0  # the same once more is no overwriting
    suffixes = (".pt2", ".pt2.md", ".probabilities.pt2", ".probabilities.pt2.md")
    assert {path.name for path in weights.parent.iterdir()} == {
        weights.name,
        *(f"{weights.stem}{suffix}" for suffix in suffixes),
    }
    assert "Softmax is inside" in weights.with_suffix(".probabilities.pt2.md").read_text()


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("another's file", "network.pt2 has no model card beside it, so it may be anything"),
        ("its logits", "network.pt2 exists and is not this network in this form"),
    ],
)
def test_nothing_is_overwritten_unasked(there: str, said: str, tmp_path: Path) -> None:
    keep(make(), tmp_path)
    out = tmp_path / "network.pt2"
    command = ["2x:0", "--results", str(tmp_path), "--format", "pt2", "--out", str(out)]
    if there == "its logits":
        assert main(command) == 0
    else:
        out.write_text("something of value")
    before = out.read_bytes()
    with pytest.raises(ValueError, match=f"{said}: .* another --out"):
        main([*command, "--probabilities"])
    assert out.read_bytes() == before


def test_a_file_that_would_end_as_one_of_another_format_is_refused(tmp_path: Path) -> None:
    keep(make(), tmp_path)
    with pytest.raises(ValueError, match=r"net.pt2: ends as a file of --format pt2, and this is of onnx"):
        main(["2x:0", "--results", str(tmp_path), "--out", str(tmp_path / "net.pt2")])


def test_a_page_that_is_no_card_of_this_network_stays(tmp_path: Path) -> None:
    keep(make(), tmp_path)
    page = tmp_path / "README.md"
    page.write_text("something of value")
    with pytest.raises(ValueError, match=r"README.md exists and is not this network in this form"):
        main(["2x:0", "--results", str(tmp_path), "--format", "pt2", "--out", str(tmp_path / "README")])
    assert page.read_text() == "something of value"


def test_a_triton_model_of_another_network_stays(tmp_path: Path) -> None:
    card = make().card
    (tmp_path / "a.onnx").write_text("one network")
    triton_repository(tmp_path, "clothes", tmp_path / "a.onnx", card, "logits")
    with pytest.raises(ValueError, match="clothes holds another network"):
        triton_repository(tmp_path, "clothes", tmp_path / "a.onnx", replace(card, run_id="f" * 16), "logits")
    (tmp_path / "clothes" / "1" / "model.onnx").unlink()  # as an interrupted export of the same network leaves it
    model = triton_repository(tmp_path, "clothes", tmp_path / "a.onnx", card, "logits")
    assert (model / "1" / "model.onnx").read_text() == "one network"
    theirs = tmp_path / "theirs" / "1" / "model.onnx"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("a model without a configuration, as Triton allows")
    with pytest.raises(ValueError, match="theirs holds another network"):
        triton_repository(tmp_path, "theirs", tmp_path / "a.onnx", card, "logits")
    assert theirs.read_text().startswith("a model without")


def test_a_pt2_file_has_no_more_than_two_of_the_test_images(tmp_path: Path) -> None:
    trained = make()
    exported(trained, "pt2", tmp_path / "a.pt2")
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        (example,) = (entry for entry in archive.infolist() if "sample_inputs" in entry.filename)
    assert example.file_size < 10 * 28 * 28  # of 60 images that there are


@pytest.mark.parametrize("values", [np.full((2, 2), 200.0, np.float32), np.full((2, 2), 70_000, np.int32)])
def test_the_cards_code_takes_no_file_that_prediction_refuses(values: "NDArray[Any]", tmp_path: Path) -> None:
    photo = tmp_path / "a.tiff"
    Image.fromarray(values).save(photo)
    with pytest.raises(DataError):
        read_images([photo], (1, 28, 28))
    code = FROM_FILE.format(imports="", mode="L", size=(28, 28), shape=(1, 28, 28, 1), given="pixels")
    with pytest.raises(AssertionError):
        exec(code.replace("photo.png", str(photo)), {})


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "file", "probabilities"),
    [
        *((kind, "photo.png", True) for kind in FORMATS),
        *(pytest.param(kind, "photo.png", False, marks=pytest.mark.slow) for kind in FORMATS),
        pytest.param("onnx", "deep.png", False, marks=pytest.mark.slow),
        pytest.param("onnx", "a.tiff", False, marks=pytest.mark.slow),
    ],
)
def test_the_cards_code_classifies_a_file_as_training_saw_it(
    kind: str, file: str, probabilities: bool, tmp_path: Path
) -> None:
    keep(make(), tmp_path)
    out = tmp_path / f"a{FORMATS[kind].suffix}"
    options = ["--probabilities"] if probabilities else []
    assert main(["2x:0", "--results", str(tmp_path), "--format", kind, "--out", str(out), *options]) == 0
    page = (tmp_path / f"{out.name}.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exif = Image.Exif()
    exif[274] = 6
    photo = tmp_path / file
    noise = Image.effect_noise((50, 40), 99)
    picture = {
        "photo.png": noise.convert("RGBA").rotate(30),  # corners are transparent
        "deep.png": Image.fromarray(np.asarray(noise).astype(np.uint16) * 250),
        "a.tiff": Image.fromarray(np.asarray(noise).astype(np.float32) / 255),
    }[file]
    picture.save(photo, exif=exif)
    names: dict[str, Any] = {}
    exec(code.replace("photo.png", str(photo)).replace(out.name, str(out)), names)
    assert type(names["images"]) is (np.ndarray if kind == "onnx" else torch.Tensor)
    images = read_images([photo], (1, 28, 28))[0]
    assert torch.equal(torch.tensor(np.asarray(names["images"])), images)
    found = torch.as_tensor(names["probabilities" if probabilities else "logits"])
    torch.testing.assert_close(found, make().classifier(probabilities)(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no trained network 'nothing'"),
        (["2x:0", "--format", "pt2", "--triton", "models"], "--triton needs --format onnx"),
        (["2x:0", "--triton", "somewhere/triton"], "torch imports a package `triton`"),
        (["2x:0", "--name", "../x"], "only letters"),
        (["2x:0", "--name", "mine"], "--name: is the name in MLflow or Triton"),
    ],
)
def test_a_wrong_request_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    keep(make(), tmp_path)
    with pytest.raises(ValueError, match=message):
        main([*arguments, "--results", str(tmp_path)])


def test_the_trained_network_itself_is_never_overwritten(tmp_path: Path) -> None:
    weights = keep(make(), tmp_path)
    before = weights.read_bytes()
    with pytest.raises(ValueError, match="is the trained network itself"):
        main(["2x:0", "--results", str(tmp_path), "--format", "pt2", "--out", str(weights)])
    assert weights.read_bytes() == before


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_cure(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = nin.export.importlib.util.find_spec
    monkeypatch.setattr(nin.export.importlib.util, "find_spec", lambda name: None if name == package else there(name))
    with pytest.raises(ValueError, match=rf"needs {package}: python -m pip install 'nin-ablations\[export\]'"):
        exported(make(), "onnx", tmp_path / "a.onnx")


def test_help_comes_without_loading_torch() -> None:
    code = "import sys, nin.export, nin.predict, nin.cam; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
