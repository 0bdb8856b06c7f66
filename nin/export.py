"""Export a trained network to a file that other software can run, and check it against the network.

    python -m nin.export RUN                            ONNX, for ONNX Runtime, Triton and most others
    python -m nin.export RUN --format pt2               torch.export's own, for PyTorch without this code
    python -m nin.export RUN --probabilities            softmax inside: class probabilities in the place of logits
    python -m nin.export RUN --mlflow                   also a registered MLflow model, which `mlflow models serve` answers for
    python -m nin.export RUN --triton models            also a model repository for the Triton inference server

Preprocessing is inside: what is exported takes any number of images as bytes, (N, C, H, W) uint8 in the data set's own size. No
range of floats can be got wrong, and clients send a byte per pixel. Beside the file, a model card says what it is and how good.
"""

import argparse
import importlib.util
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nin.cli import OneLineParser, add_run_argument, exit_with, positive, reason, sqlite_url

if TYPE_CHECKING:
    from torch import Tensor

    from nin.data import ImageData
    from nin.weights import Card, Classifier, TrainedNetwork

INPUT = "images"  # the name of the argument of `nin.weights.Classifier.forward` as well
TOLERANCE = 1e-4  # share of the largest output (at least 1): other kernels add in another order, in float32
CHECK_BATCH = 500  # images
LABELS, TRITON = "labels.txt", "config.pbtxt"
MAX_BATCH = 256  # images that Triton may put together
MAX_DELAY_MICROSECONDS = 1000  # wait of Triton for more images to put together
EXPERIMENT = "nin-ablations/exported"

# How a reader of the card makes the input of an image file: `nin.images.decode` for files of 8 bits per channel, in PIL's terms.
FROM_FILE = """\
import numpy as np
from PIL import Image, ImageOps

picture = ImageOps.exif_transpose(Image.open("photo.png"))  # upright, as its camera says
if picture.has_transparency_data:
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture.convert("RGBA"))
picture = picture.convert("{mode}").resize({size}, Image.Resampling.BILINEAR)
images = np.asarray(picture).reshape{shape}.transpose(0, 3, 1, 2)
images = {given}"""

# A request to copy: one black image of the network's shape
REQUEST = """\
python -c 'import json, numpy; print(json.dumps({{"inputs": numpy.zeros({shape}, int).tolist()}}))' |
    curl -s http://127.0.0.1:5001/invocations -H "Content-Type: application/json" -d @-"""

Runner = Callable[["Tensor"], "Tensor"]  # images as bytes (N, C, H, W) -> outputs (N, K)


@dataclass(frozen=True)
class Format:
    """A kind of file: how a classifier is written, given two example images, and how the file is run.

    example  how a reader of the card runs it, in Python, with "FILE" for the file's name
    """

    suffix: str
    write: Callable[["Classifier", "Tensor", Path, "Card"], None]
    read: Callable[[Path], Runner]
    example: str


@dataclass(frozen=True)
class Check:
    """Comparison of an exported file with its network on test images, one at a time and in batches.

    largest_difference  between outputs (logits or probabilities)
    different_labels    images that the two put into different classes, which within the tolerance only near ties can be
    accuracy            of the exported file, which computes in float32
    """

    examples: int
    largest_difference: float
    different_labels: int
    accuracy: float

    def __str__(self) -> str:
        return (
            f"{self.examples:,} test images: largest difference {self.largest_difference:.1e}, "
            f"{self.different_labels} different labels, accuracy {self.accuracy:.2%}"
        )


def export(
    trained: "TrainedNetwork", data: "ImageData", kind: str, path: Path, probabilities: bool = False, examples: int = 0
) -> Check:
    """Write the file, its preprocessing inside, and compare it with the network on `examples` test images (0: all).

    Raises ValueError, and leaves what was there, if they differ beyond the tolerance or the format cannot express the network.
    """
    classifier, form = trained.classifier(probabilities), FORMATS[kind]
    images = data.test.images[:examples] if examples else data.test.images
    path.parent.mkdir(parents=True, exist_ok=True)
    unchecked = path.with_stem(f"{path.stem}.unchecked")
    try:
        with _without_chatter():
            # A copy, since torch.export keeps its example, and of a view the whole storage: all test images.
            form.write(classifier, data.test.images[:2].clone(), unchecked, trained.card)
            check = _compare(classifier, form.read(unchecked), images, data.test.labels)
        unchecked.replace(path)
        return check
    finally:
        unchecked.unlink(missing_ok=True)


def _compare(classifier: Runner, exported: Runner, images_NCHW: "Tensor", labels_N: "Tensor") -> Check:
    """One image alone, then batches: a batch dimension that was frozen would show."""
    import torch

    largest, scale, different, right = 0.0, 1.0, 0, 0
    with torch.no_grad():
        start = 0
        batches = torch.split(images_NCHW[1:], CHECK_BATCH) if len(images_NCHW) > 1 else ()
        for batch in (images_NCHW[:1], *batches):
            wanted_NK, found_NK = classifier(batch), exported(batch)
            if not bool(wanted_NK.isfinite().all()):
                raise ValueError("the network's own outputs are not finite: a run that diverged is not worth exporting")
            largest = max(largest, float((found_NK - wanted_NK).abs().nan_to_num(torch.inf).max()))
            scale = max(scale, float(wanted_NK.abs().max()))
            found_N = found_NK.argmax(dim=1)
            different += int((found_N != wanted_NK.argmax(dim=1)).sum())
            right += int((found_N == labels_N[start : start + len(batch)]).sum())
            start += len(batch)
    if largest > TOLERANCE * scale:
        raise ValueError(
            f"the exported file differs from the network by {largest:.2g} in outputs of up to {scale:.2g}: not kept"
        )
    return Check(start, largest, different, right / start)


def _write_onnx(classifier: "Classifier", images: "Tensor", path: Path, card: "Card") -> None:
    import torch
    from torch.onnx import OnnxExporterError

    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"--format onnx needs {package}: python -m pip install 'nin-ablations[export]'")
    try:
        program = torch.onnx.export(
            classifier,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[_output_name(classifier)],
            dynamic_shapes=({0: "batch"},),
        )
    except OnnxExporterError as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise ValueError(f"ONNX cannot express this network ({reason}): use --format pt2") from error
    assert program is not None
    program.model.metadata_props.update({"name": card.name, "classes": json.dumps(card.classes)})
    program.save(path, external_data=False)


def _read_onnx(path: Path) -> Runner:
    import onnxruntime  # type: ignore[import-untyped]
    import torch

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


def _write_pt2(classifier: "Classifier", images: "Tensor", path: Path, card: "Card") -> None:
    import torch

    program = torch.export.export(classifier, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path, extra_files={"classes.json": json.dumps(card.classes)})


def _read_pt2(path: Path) -> Runner:
    import torch

    module: Runner = torch.export.load(path).module()
    return module


def _write_torchscript(classifier: "Classifier", images: "Tensor", path: Path, card: "Card") -> None:
    import torch

    with torch.no_grad():
        program = torch.jit.trace(classifier, images)  # type: ignore[no-untyped-call]
    torch.jit.save(program, path, _extra_files={"classes.json": json.dumps(card.classes)})


def _read_torchscript(path: Path) -> Runner:
    import torch

    module: Runner = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return module


FORMATS: dict[str, Format] = {
    "onnx": Format(
        ".onnx",
        _write_onnx,
        _read_onnx,
        f'session = onnxruntime.InferenceSession("FILE")\n(OUTPUT,) = session.run(None, {{"{INPUT}": {INPUT}}})',
    ),
    "pt2": Format(".pt2", _write_pt2, _read_pt2, f'OUTPUT = torch.export.load("FILE").module()({INPUT})'),
    "torchscript": Format(
        ".torchscript", _write_torchscript, _read_torchscript, f'OUTPUT = torch.jit.load("FILE")({INPUT})'
    ),
}


def model_card(card: "Card", check: Check, kind: str, path: Path, probabilities: bool) -> str:
    """The model card in Markdown: all that a person must know to use the file."""
    import torch

    low, high = card.test_interval
    output = "probabilities" if probabilities else "logits"
    channels, height, width = card.image_shape
    prepared = (
        "normalises them"
        if card.image_shape == card.in_shape
        else (f"normalises them and resizes them to {card.in_shape[1]}x{card.in_shape[2]} (bilinear)")
    )
    rows = {
        "network": _fields(card.model),
        "parameters": f"{card.params_trunk + card.params_head:,} (trunk {card.params_trunk:,}, head {card.params_head:,})",
        "GFLOP": f"{card.gflops:.4f} per image, forward (2 per multiply-accumulate)",
        "input": f"`{INPUT}`: uint8 (N, {channels}, {height}, {width}), any N, 0 is black and 255 white; the file {prepared}",
        "output": f"`{output}`: float32 (N, {len(card.classes)})",
        "classes": ", ".join(f"{k} {name}" for k, name in enumerate(card.classes)),
        "data": f"{_fields(card.data)}; SHA-256 of images and labels {card.data_checksum}",
        "training": f"{_fields(card.train)}, seed={card.seed}; outcome: {card.outcome}",
        "test accuracy": f"{card.test_accuracy:.2%}, 95 % interval {low:.2%} to {high:.2%} (Wilson), "
        f"on {card.test_examples:,} test images, as trained in {card.train.precision}",
        "this file against the network": str(check),
        "trained with": ", ".join(f"{key} {value}" for key, value in card.environment.items() if value),
        "exported with": f"torch {torch.__version__}",
    }
    return "\n".join(
        [
            *_first_lines(card, kind, probabilities),
            f"It knows the {len(card.classes)} classes below and gives one of them to any image, whatever it shows. "
            "The accuracy is that on images like those it was trained on; on others it is unknown.",
            "",
            "| | |",
            "| --- | --- |",
            *("| {} | {} |".format(key, value.replace("|", "\\|")) for key, value in rows.items()),
            "",
            "```python",
            FORMATS[kind].example.replace("FILE", path.name).replace("OUTPUT", output),
            "```",
            "",
            "An image file becomes such bytes as it did for training and does for `nin.predict`:",
            "",
            "```python",
            FROM_FILE.format(
                mode="L" if channels == 1 else "RGB",
                size=(width, height),
                shape=(1, height, width, channels),
                given="images" if kind == "onnx" else "torch.from_numpy(images.copy())",
            ),
            "```",
            "",
            "With `nin.export --mlflow`, MLflow's server (`mlflow models serve ... -p 5001`) answers with the label of each image:",
            "",
            "```bash",
            REQUEST.format(shape=json.dumps((1, *card.image_shape))),
            "```",
            "",
        ]
    )


def _first_lines(card: "Card", kind: str, probabilities: bool) -> list[str]:
    """The lines of a model card that say which network's file it is, and whether softmax is inside."""
    softmax = (
        "Softmax is inside: each row of the output sums to 1."
        if probabilities
        else "The output is logits. Softmax makes probabilities of them; the most probable class is the largest logit either way."
    )
    return [f"# {card.name}", "", f"An image classifier, run {card.run_id} of nin-ablations, as {kind}. {softmax}"]


def _require_free(path: Path, page: Path, first_lines: Sequence[str]) -> None:
    """Raise ValueError unless `path` is free, or an earlier export of the same network in the same form wrote it."""
    if path.exists() and not (page.is_file() and page.read_text().startswith("\n".join(first_lines) + "\n")):
        raise ValueError(f"{path} exists and is not this network in this form: remove it, or choose another --out")


def triton_repository(folder: Path, name: str, onnx_file: Path, card: "Card", output: str) -> Path:
    """`<folder>/<name>`, as the Triton inference server wants a model: its configuration, its labels and version 1 of it.

    Raises ValueError if another network is there.
    """
    model = folder / name
    configuration = _triton_configuration(name, card, output)
    if (model / TRITON).exists() and (model / TRITON).read_text() != configuration:
        raise ValueError(
            f"{model} holds another network, or this one in another form: remove it, or choose another --name"
        )
    (model / "1").mkdir(parents=True, exist_ok=True)
    (model / "1" / "model.onnx").write_bytes(onnx_file.read_bytes())
    (model / LABELS).write_text("".join(f"{label}\n" for label in card.classes))
    (model / TRITON).write_text(configuration)
    return model


def _triton_configuration(name: str, card: "Card", output: str) -> str:
    dims = ", ".join(str(n) for n in card.image_shape)
    return f'''# run {card.run_id} of nin-ablations
name: "{name}"
backend: "onnxruntime"
max_batch_size: {MAX_BATCH}
input [ {{ name: "{INPUT}" data_type: TYPE_UINT8 dims: [ {dims} ] }} ]
output [ {{ name: "{output}" data_type: TYPE_FP32 dims: [ {len(card.classes)} ] label_filename: "{LABELS}" }} ]
dynamic_batching {{ max_queue_delay_microseconds: {MAX_DELAY_MICROSECONDS} }}
'''


def register_with_mlflow(
    trained: "TrainedNetwork", images: "Tensor", name: str, uri: str, artifacts: Path, probabilities: bool
) -> str:
    """Log the network, its preprocessing inside, and register it as `name`. Returns its URI, "models:/<name>/<version>".

    images     a few test images (more than one), kept as the example of an input
    artifacts  where files go if `uri` is a bare database and not a server, which knows by itself
    """
    import mlflow
    import numpy as np
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    card = trained.card
    mlflow.set_tracking_uri(uri)
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        place = None if uri.startswith("http") else artifacts.resolve().as_uri()
        mlflow.create_experiment(EXPERIMENT, artifact_location=place)
    mlflow.set_experiment(EXPERIMENT)
    output = "probabilities" if probabilities else "logits"
    # Of any tensor, since the model itself says what is wrong with one in a line; MLflow's own check repeats all pixels.
    signature = ModelSignature(inputs=Schema([TensorSpec(np.dtype("O"), (-1,))]))
    with mlflow.start_run(run_name=card.name), tempfile.TemporaryDirectory() as folder:
        network, about = Path(folder) / "network.pt2", Path(folder) / "card.json"
        _write_pt2(trained.classifier(probabilities), images, network, card)
        about.write_text(json.dumps({"classes": card.classes, "output": output, "shape": card.image_shape}))
        mlflow.log_metric("test/accuracy", card.test_accuracy)
        info = mlflow.pyfunc.log_model(
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"network": str(network), "card": str(about)},
            name=name,
            registered_model_name=name,
            signature=signature,
            # Said here, they need not be found out by loading the model in a process of its own. "+cpu" is on no index.
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"],
            metadata={"card": asdict(card), "output": output},
        )
    return f"models:/{name}/{info.registered_model_version}"


def _output_name(classifier: "Classifier") -> str:
    from torch import nn

    return "probabilities" if isinstance(classifier.last, nn.Softmax) else "logits"


def _fields(spec: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in asdict(spec).items())


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Silence deprecations inside torch and notes of its exporters and MLflow, which users cannot act on."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for logger in ("mlflow", "alembic", "onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        yield


def _safe(name: str) -> str:
    """A name that registries and folders take: "num_1x1-quick-2x-0" from "num_1x1/quick/2x:0"."""
    return re.sub(r"[^\w-]+", "-", name)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m nin.export", description="A trained network as a file that others can run.")
    add_run_argument(parser)
    parser.add_argument(
        "--format",
        choices=["onnx", "pt2", "torchscript"],
        default="onnx",
        dest="kind",
        help="onnx; pt2 for torch.export; torchscript for older tools, deprecated by PyTorch (default: onnx)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="exported file (default: beside the weights)")
    parser.add_argument(
        "--probabilities", action="store_true", help="put the softmax into the file, which has another name then"
    )
    parser.add_argument(
        "--check",
        type=positive,
        default=0,
        metavar="N",
        dest="examples",
        help="compare on N test images (default: all)",
    )
    parser.add_argument("--mlflow", action="store_true", help="also log and register it as an MLflow model")
    parser.add_argument("--triton", type=Path, metavar="DIR", help="also lay out a Triton model repository (onnx only)")
    parser.add_argument("--name", help="name in MLflow and Triton (default: study, protocol, variant and seed)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Raises ValueError, in one line, for invalid arguments."""
    arguments = _parser().parse_args(argv)
    kind, probabilities = arguments.kind, arguments.probabilities
    if arguments.triton and kind != "onnx":
        raise ValueError(f"--triton needs --format onnx, not {kind}")
    if arguments.triton and arguments.triton.name == "triton":
        # Python would take it for the package of that name wherever it is the working directory's.
        raise ValueError(
            f"--triton {arguments.triton}: torch imports a package `triton`; call the folder something else"
        )
    if arguments.name is not None and not re.fullmatch(r"[\w-]+", arguments.name):
        raise ValueError(f"--name {arguments.name!r}: only letters, digits, '_' and '-'")
    if arguments.mlflow and importlib.util.find_spec("mlflow") is None:
        raise ValueError("--mlflow: MLflow is not installed: python -m pip install mlflow")

    from nin.weights import find, load, load_data

    weights = find(arguments.run, arguments.results)
    trained = load(weights)
    card = trained.card
    data = load_data(card)
    form = ".probabilities" if probabilities else ""
    path = arguments.out or weights.with_suffix(f"{form}{FORMATS[kind].suffix}")
    if path.resolve() == weights.resolve():
        raise ValueError(f"--out {path} is the trained network itself: choose another name")
    page = path.with_name(f"{path.name}.md")
    _require_free(path, page, _first_lines(card, kind, probabilities))
    check = export(trained, data, kind, path, probabilities, arguments.examples)
    name = arguments.name or _safe(card.name)
    page.write_text(model_card(card, check, kind, path, probabilities))
    print(f"{card.name}: {check}")
    print(f"file: {path}\ncard: {page}")
    if arguments.triton:
        output = "probabilities" if probabilities else "logits"
        model = triton_repository(arguments.triton, name, path, card, output)
        print(f"Triton: {model}; serve it with tritonserver --model-repository={arguments.triton.resolve()}")
    if arguments.mlflow:
        own = os.environ.get("MLFLOW_TRACKING_URI")
        uri = own or sqlite_url((arguments.results / "mlflow.db").resolve())
        arguments.results.mkdir(parents=True, exist_ok=True)
        try:
            with _without_chatter():
                model_uri = register_with_mlflow(
                    trained, data.test.images[:2].clone(), name, uri, arguments.results / "mlartifacts", probabilities
                )
        except Exception as error:  # of MLflow, of its databases, of the network
            raise ValueError(
                f"--mlflow: the network could not be registered ({reason(error)}); the file above is complete"
            ) from error
        where = "" if own else f"MLFLOW_TRACKING_URI={uri} "
        print(
            f"MLflow: {model_uri}; serve it with\n{where}mlflow models serve -m {model_uri} --env-manager local -p 5001"
        )
    return 0


if __name__ == "__main__":
    exit_with(main)
