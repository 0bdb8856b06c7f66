"""Trained networks on disk: what comes back is what was kept, and what is found is what was meant."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from trained_networks import DATA, TINY, keep, make

from nin.data import load as load_data_set
from nin.weights import Preprocessing, find, load, load_data, read_card, to_bytes


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    trained = make()
    again = load(keep(trained, tmp_path))
    images = load_data_set(DATA).test.images
    assert again.card == trained.card
    assert torch.equal(again.classifier()(images), trained.classifier()(images))
    assert not again.network.training


def test_batch_normalisation_keeps_its_running_statistics(tmp_path: Path) -> None:
    trained = make(replace(TINY, activation="batchnorm-relu"))
    trained.network.train()(torch.rand(8, 1, 28, 28))
    wanted = {name: value for name, value in trained.network.state_dict().items() if "running" in name}
    found = load(keep(trained, tmp_path)).network.state_dict()
    assert wanted
    assert all(torch.equal(found[name], value) and value.any() for name, value in wanted.items())


def test_weights_laid_out_for_channels_last_are_kept_alike(tmp_path: Path) -> None:
    trained = make()
    plain = to_bytes(trained.network, trained.card)
    trained.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert to_bytes(trained.network, trained.card) == plain


def test_a_file_from_before_there_was_a_checksum_is_read(tmp_path: Path) -> None:
    trained = make()
    path = tmp_path / "old.safetensors"
    save_file(trained.network.state_dict(), path, metadata={"card": json.dumps(asdict(trained.card))})
    assert load(path).card == trained.card


def test_a_network_that_was_moved_still_takes_images() -> None:
    """The meta device stands for a GPU."""
    trained = make()
    trained.network.to("meta")
    assert trained.classifier()(torch.zeros(2, 1, 28, 28, dtype=torch.uint8, device="meta")).device.type == "meta"


def test_weights_that_two_layers_share_are_kept(tmp_path: Path) -> None:
    trained = make()
    layer = next(module for module in trained.network.modules() if isinstance(module, torch.nn.Conv2d))
    trained.network.add_module("again", layer)
    content = load_tensors(to_bytes(trained.network, trained.card))
    assert torch.equal(content["again.weight"], layer.weight)


def test_the_file_says_what_it_is_without_our_code(tmp_path: Path) -> None:
    with safe_open(keep(make(), tmp_path), framework="np") as file:
        card = json.loads(file.metadata()["card"])
    assert card["name"] == "num_1x1/smoke/2x:0"
    assert card["model"]["num_1x1"] == 2
    assert card["classes"] == [str(k) for k in range(10)]
    assert card["image_shape"] == [1, 28, 28]
    assert card["test_accuracy"] == 0.9
    assert len(card["data_checksum"]) == 64


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("image_size", [0, 40, 20])
def test_preprocessing_is_that_of_training(image_size: int, normalize: bool) -> None:
    spec = replace(DATA, image_size=image_size, normalize=normalize)
    data = load_data_set(spec)
    wanted, _ = next(data.batches(data.test, 60))
    found = Preprocessing(make(data=spec).card)(data.test.images)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_a_network_of_code_that_is_not_loaded_says_what_to_import(tmp_path: Path) -> None:
    trained = make()
    model = replace(trained.card.model, pooling="mine")
    card = replace(trained.card, model=model, environment={"plugins": "my_study.py 0123456789abcdef"})
    path = tmp_path / "mine.safetensors"
    path.write_bytes(to_bytes(trained.network, card))
    with pytest.raises(
        ValueError,
        match=r"needs the code of my_study\.py 0123456789abcdef: import it first \(--import MODULE, or a file\)",
    ):
        load(path)


def test_data_of_code_that_is_not_loaded_says_what_to_import() -> None:
    card = make().card
    card = replace(
        card, data=replace(card.data, augment="mine"), environment={"plugins": "my_augment.py 0123456789abcdef"}
    )
    with pytest.raises(ValueError, match=r"needs the code of my_augment\.py .*unknown augmentation 'mine'"):
        load_data(card)


def test_the_label_is_variant_and_seed() -> None:
    assert make(name="num_1x1/quick/2x@3x-params:7").card.label == "2x@3x-params seed 7"
    assert make(name="receptive_field/standard/11x11/4 40k:0").card.label == "11x11/4 40k seed 0"


@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        "text",
        "empty",
        "no card",
        "other weights",
        "unknown field",
        "flipped bit",
        "flipped bit of the card",
    ],
)
def test_a_file_that_is_not_one_of_ours_is_one_line(damage: str, tmp_path: Path) -> None:
    trained = make()
    path = keep(trained, tmp_path)
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "text":
            path.write_text("no network at all")
        case "empty":
            path.write_bytes(b"")
        case "no card":
            save_file(trained.network.state_dict(), path)
        case "other weights":
            path.write_bytes(to_bytes(make(replace(TINY, num_1x1=1)).network, trained.card))
        case "unknown field":
            path.write_bytes(path.read_bytes().replace(b'\\"inner_kernel\\"', b'\\"other_kernel\\"'))
        case "flipped bit":
            content = bytearray(path.read_bytes())
            content[-10] ^= 64
            path.write_bytes(content)
        case "flipped bit of the card":
            path.write_bytes(path.read_bytes().replace(b'\\"test_accuracy\\": 0.9', b'\\"test_accuracy\\": 0.8'))
    with pytest.raises(ValueError, match="is not a network written by --keep-weights, or is damaged") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name, run_id in (
        ("num_1x1/smoke/2x:0", "aaaa000000000000"),
        ("num_1x1/smoke/2x:1", "aabb000000000000"),
        ("num_1x1/quick/12x:0", "cccc000000000000"),
        ("heads/smoke/nin+nin:0", "aaaa000000000000"),  # the same run under another name
    ):
        keep(make(name=name, run_id=run_id), tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "run_id"),
    [
        ("aabb", "aabb000000000000"),
        ("aaaa", "aaaa000000000000"),
        ("cccc000000000000", "cccc000000000000"),
        ("2x:0", "aaaa000000000000"),
        ("12x:0", "cccc000000000000"),
        ("smoke/2x:1", "aabb000000000000"),
        ("heads/smoke/nin+nin:0", "aaaa000000000000"),
    ],
)
def test_a_run_is_found_by_the_start_of_its_id_or_the_end_of_its_name(name: str, run_id: str, results: Path) -> None:
    assert find(name, results).stem == run_id


def test_networks_that_only_settings_tell_apart_are_named_by_their_run_id(results: Path) -> None:
    twin = next(results.rglob("cccc*"))
    shutil.copyfile(twin, twin.with_stem("dddd000000000000"))
    with pytest.raises(ValueError, match=r"12x:0 \(dddd0.*\): write the run_id, of the newest dddd0"):
        find("12x:0", results)


def test_a_path_is_taken_as_it_is(results: Path, tmp_path: Path) -> None:
    path = next(results.rglob("cccc*"))
    assert find(str(path), Path("nowhere")) == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aa", r"could be any of .*2x:1 \(aabb000000000000\)"),
        ("dddd", "no trained network 'dddd' under .*, but .*12x:0"),
        ("", "no trained network ''"),
        ("2x", "no trained network '2x'"),
        ("nowhere.safetensors", "there is no file nowhere.safetensors"),
    ],
)
def test_what_cannot_be_found_names_what_there_is(name: str, message: str, results: Path) -> None:
    with pytest.raises(ValueError, match=message):
        find(name, results)


def test_an_empty_folder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"python -m ablations\.run STUDY --keep-weights"):
        find("2x:0", tmp_path)


def test_a_damaged_neighbour_does_not_hide_the_rest(results: Path) -> None:
    next(results.rglob("cccc*")).write_text("damaged")
    assert find("smoke/2x:1", results).stem == "aabb000000000000"
    with pytest.raises(ValueError, match="is damaged"):
        read_card(find("cccc", results))


def test_other_data_than_it_was_tested_on_is_refused() -> None:
    card = make().card
    assert load_data(card).checksum == card.data_checksum
    with pytest.raises(ValueError, match="not what num_1x1/smoke/2x:0 was trained and tested on"):
        load_data(replace(card, data_checksum="0" * 64))
