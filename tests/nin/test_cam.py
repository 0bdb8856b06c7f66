"""Class maps: their means are the logits, and the figure shows what was asked for."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from trained_networks import DATA, TINY, keep, make

from nin.cam import choose_images, class_map_figure, class_maps, main
from nin.data import load
from nin.spec import ModelSpec


@pytest.fixture(scope="module", name="images_NCHW")
def prepared_images() -> Tensor:
    return make().classifier().preprocessing(load(DATA).test.images[:5])


@pytest.mark.parametrize("class_relu", [True, False])
@pytest.mark.parametrize("num_1x1", [0, 2])
def test_means_of_a_nin_heads_maps_are_its_logits(num_1x1: int, class_relu: bool, images_NCHW: Tensor) -> None:
    network = make(replace(TINY, num_1x1=num_1x1, class_relu=class_relu)).network
    maps_NKHW = class_maps(network, images_NCHW)
    assert maps_NKHW.shape == (5, 10, 3, 3)
    torch.testing.assert_close(maps_NKHW.mean(dim=(2, 3)), network(images_NCHW).detach())


def test_means_of_a_linear_heads_maps_are_its_logits_without_the_bias(images_NCHW: Tensor) -> None:
    """Equation 2 of Zhou et al.: the sum over the map is what the class gets, and a bias belongs to no place."""
    network = make(replace(TINY, head="linear")).network
    logits_NK = network(images_NCHW).detach()
    maps_NKHW = class_maps(network, images_NCHW)
    torch.testing.assert_close(maps_NKHW.mean(dim=(2, 3)) + network.head[-1].bias.detach(), logits_NK)


def test_maxima_of_the_maps_are_the_logits_under_max_pooling(images_NCHW: Tensor) -> None:
    network = make(replace(TINY, pooling="max")).network
    torch.testing.assert_close(class_maps(network, images_NCHW).amax(dim=(2, 3)), network(images_NCHW).detach())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (replace(TINY, head="alexnet", hidden=8), "class activation maps need head"),
        (replace(TINY, trunk="lenet", head="lenet"), "class activation maps need head"),
        (replace(TINY, pooling="flatten"), "FlattenPool mixes maps and positions"),
        (replace(TINY, head="linear", pooling="concat"), "ConcatPool mixes maps and positions"),
        (replace(TINY, pooling="attention"), "AttentionPool mixes maps and positions"),
        (replace(TINY, pooling="simpool"), "SimPool mixes maps and positions"),
    ],
)
def test_a_network_without_class_maps_is_one_line(model: ModelSpec, message: str, tmp_path: Path) -> None:
    keep(make(model), tmp_path)
    with pytest.raises(ValueError, match=f"num_1x1/smoke/2x:0 has no class maps: .*{message}"):
        main(["2x:0", "--results", str(tmp_path), "--out", str(tmp_path / "a.png")])


@pytest.mark.parametrize(
    ("right", "chosen"),
    [
        ("110110", [0, 1, 2, 5]),  # half of each, the wrong ones last
        ("111101", [0, 1, 2, 4]),  # one wrong is all there is
        ("000010", [4, 0, 1, 2]),
        ("111111", [0, 1, 2, 3]),
    ],
)
def test_half_of_the_images_are_wrong_ones_where_there_are_as_many(right: str, chosen: list[int]) -> None:
    assert choose_images(torch.tensor([[flag == "1" for flag in right]]), 4) == chosen


def test_an_image_is_wrong_if_any_network_gets_it_wrong() -> None:
    right_RN = torch.tensor([[True, False, True, True], [True, True, True, False]])
    assert choose_images(right_RN, 4) == [0, 2, 1, 3]


def test_figure_shows_each_network_its_label_and_the_strongest_other_class() -> None:
    trained = [make(), make(replace(TINY, num_1x1=0), name="num_1x1/smoke/0x:0")]
    images = load(DATA).test.take(torch.tensor([3, 7]))
    figure = class_map_figure(trained, images)
    parts = figure.subfigs
    assert [part.get_suptitle() for part in parts] == ["image", "2x seed 0", "0x seed 0"]
    assert [len(part.axes) for part in parts] == [2, 4, 4]
    assert [part.get_suptitle() for part in class_map_figure(trained[0], images).subfigs] == ["image", "2x seed 0"]
    probabilities_K = trained[1].classifier(probabilities=True)(images.images).detach()[1]
    label = int(images.labels[1])
    other = int(probabilities_K.argsort(descending=True)[0])
    other = other if other != label else int(probabilities_K.argsort(descending=True)[1])
    titles = [axes.get_title() for axes in parts[2].axes[2:]]
    assert titles == [f"{k}\n{float(probabilities_K[k]):.0%}" for k in (label, other)]
    shown = parts[2].axes[2].images[1]
    wanted = class_maps(trained[1].network, trained[1].classifier().preprocessing(images.images))[1, label]
    torch.testing.assert_close(torch.tensor(shown.get_array()), wanted)
    low, high = shown.get_clim()
    assert -low == high == parts[2].axes[3].images[1].get_clim()[1]


@pytest.mark.parametrize(
    ("networks", "images", "message"),
    [
        (1, "tensor", "1 to 50 images with labels, such as data.test.first"),
        (1, "many", "1 to 50 images with labels"),
        (0, "some", "one or more networks"),
        (1, "others", "takes images (1, 28, 28), and these are uint8 (2, 1, 8, 8)"),
        (2, "some", "have different classes"),
    ],
)
def test_a_figure_that_cannot_be_is_one_line(networks: int, images: str, message: str) -> None:
    data = load(DATA)
    renamed = make(loaded=replace(data, classes=(*data.classes[:-1], "another")))
    given: dict[str, Any] = {
        "tensor": data.test.images[:2],
        "many": data.test.first(51),
        "some": data.test.first(2),
        "others": replace(data.test.first(2), images=data.test.images[:2, :, :8, :8]),
    }
    with pytest.raises(ValueError, match=re.escape(message)):
        class_map_figure([make(), renamed][:networks], given[images])


def test_command_writes_a_picture_that_the_seed_decides(tmp_path: Path) -> None:
    keep(make(), tmp_path)
    keep(make(replace(TINY, num_1x1=0), name="num_1x1/smoke/0x:0", run_id="ffff"), tmp_path)
    pictures = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        out = tmp_path / "new" / f"{name}.png"
        arguments = ["2x:0", "0x:0", "--images", "2", "--seed", seed, "--out", str(out)]
        assert main([*arguments, "--results", str(tmp_path)]) == 0
        with Image.open(out) as picture:
            pictures.append(picture.tobytes())
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize(("suffix", "has_note"), [("曲线", True), ("é", False)])
def test_characters_that_the_font_lacks_are_one_note(
    suffix: str, has_note: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = load(DATA)
    renamed = replace(data, classes=tuple(f"{name}{suffix}" for name in data.classes))
    keep(make(loaded=renamed), tmp_path)
    assert main(["2x:0", "--images", "2", "--out", str(tmp_path / "a.png"), "--results", str(tmp_path)]) == 0
    printed = capfd.readouterr()
    assert ("note: the font lacks characters of some class names" in printed.out) is has_note
    assert printed.err == ""


def test_maps_are_those_of_evaluation_whatever_the_networks_mode(images_NCHW: Tensor) -> None:
    network = make().network.train()
    assert torch.equal(class_maps(network, images_NCHW), class_maps(network, images_NCHW))
    assert network.training


def test_a_pooling_with_more_numbers_than_maps_is_one_line(
    images_NCHW: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make(replace(TINY, head="linear", pooling="concat")).network
    monkeypatch.setattr("nin.pooling.ConcatPool.channel_by_channel", True)
    with pytest.raises(ValueError, match="ConcatPool returns more or fewer numbers than there are maps"):
        class_maps(network, images_NCHW)


def test_seeds_with_validation_images_of_their_own_are_put_side_by_side(tmp_path: Path) -> None:
    for seed in (0, 1):
        data = replace(DATA, split="by-seed").for_seed(seed)
        keep(make(data=data, name=f"num_1x1/smoke/2x:{seed}", run_id=f"{seed}" * 16), tmp_path)
    out = tmp_path / "a.png"
    assert main(["2x:0", "2x:1", "--images", "1", "--out", str(out), "--results", str(tmp_path)]) == 0
    assert out.exists()


@pytest.mark.parametrize("names", [["2x:0", "2x:1"], ["2x:1", "2x:0"]])
def test_a_network_of_other_data_than_is_here_is_refused_in_any_place(names: list[str], tmp_path: Path) -> None:
    keep(make(), tmp_path)
    other = make(name="num_1x1/smoke/2x:1", run_id="1" * 16)
    keep(replace(other, card=replace(other.card, data_checksum="0" * 64)), tmp_path)
    with pytest.raises(ValueError, match="not what num_1x1/smoke/2x:1 was trained and tested on"):
        main([*names, "--out", str(tmp_path / "a.png"), "--results", str(tmp_path)])


def test_a_head_that_is_no_sequence_has_no_maps(images_NCHW: Tensor) -> None:
    network = make().network
    network.head = nn.ModuleDict({"whole": network.head})
    with pytest.raises(ValueError, match="need head 'nin' or 'linear'"):
        class_maps(network, images_NCHW)


def test_networks_of_other_classes_are_not_put_side_by_side(tmp_path: Path) -> None:
    keep(make(), tmp_path)
    data = load(DATA)
    renamed = replace(data, classes=(*data.classes[:-1], "another"))
    keep(make(loaded=renamed, name="num_1x1/smoke/0x:0", run_id="ffff"), tmp_path)
    with pytest.raises(ValueError, match="were not tested on the same images and classes"):
        main(["2x:0", "0x:0", "--results", str(tmp_path)])


def test_networks_for_other_images_are_not_put_side_by_side(tmp_path: Path) -> None:
    keep(make(), tmp_path)
    keep(make(data=replace(DATA, split="another"), name="num_1x1/smoke/0x:0", run_id="ffff"), tmp_path)
    with pytest.raises(ValueError, match="were not tested on the same images"):
        main(["2x:0", "0x:0", "--results", str(tmp_path)])


def test_a_network_that_diverged_is_one_line(tmp_path: Path) -> None:
    trained = make()
    next(trained.network.parameters()).data.fill_(torch.nan)
    keep(trained, tmp_path)
    with pytest.raises(ValueError, match="its logits are not finite"):
        main(["2x:0", "--results", str(tmp_path), "--out", str(tmp_path / "a.png")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "maps"], "--out 'maps': must end in .png, .svg or .pdf"),
        (["--images", "100000"], "--images 100000: at most 50"),
    ],
)
def test_a_picture_that_cannot_be_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    keep(make(), tmp_path)
    with pytest.raises(ValueError, match=message):
        main(["2x:0", "--results", str(tmp_path), *arguments])
