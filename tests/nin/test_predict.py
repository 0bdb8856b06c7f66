"""What a trained network takes a person's own images for: the same as for the test image that the file was made from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from trained_networks import DATA, keep, make

import nin.cam
import nin.export
import nin.predict
import nin.shift
from nin.cli import SOME_RUN_FAILED
from nin.data import load
from nin.model import predict
from nin.pooling import POOLINGS
from nin.predict import main, probabilities, read_images, seems_inverted
from nin.registry import digest
from nin.spec import Shape
from nin.weights import TrainedNetwork

GREY = (1, 28, 28)


@pytest.fixture(scope="module")
def image() -> Tensor:
    """(H, W)"""
    return load(DATA).test.images[3, 0]


@pytest.fixture
def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.numpy())


def pixels_of(path: Path, shape: Shape = GREY, invert: bool = False) -> Tensor:
    return read_images([path], shape, invert)[0]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_an_image_of_the_right_size_is_taken_as_it_is(
    mode: str, image: Tensor, picture: Image.Image, tmp_path: Path
) -> None:
    picture.convert(mode).save(tmp_path / "a.png")
    assert torch.equal(pixels_of(tmp_path / "a.png"), image[None, None])


def test_grey_becomes_three_channels_where_the_network_wants_them(
    image: Tensor, picture: Image.Image, tmp_path: Path
) -> None:
    picture.save(tmp_path / "a.png")
    assert torch.equal(pixels_of(tmp_path / "a.png", (3, 28, 28)), image.expand(1, 3, 28, 28))


def test_other_shapes_are_squeezed_whole(tmp_path: Path) -> None:
    """White above and black below, whatever the size: nothing is cropped."""
    pixels = np.zeros((90, 200), np.uint8)
    pixels[:45] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = pixels_of(tmp_path / "a.png")[0, 0]
    assert (found[:13] == 255).all()
    assert (found[15:] == 0).all()


def test_inverting_swaps_light_and_dark(picture: Image.Image, image: Tensor, tmp_path: Path) -> None:
    ImageOps.invert(picture).save(tmp_path / "a.png")
    assert torch.equal(pixels_of(tmp_path / "a.png", invert=True), image[None, None])


def test_a_photo_is_turned_as_its_camera_says(picture: Image.Image, image: Tensor, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # orientation: to be turned by 90 degrees clockwise
    picture.rotate(90, expand=True).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(pixels_of(tmp_path / "a.png"), image[None, None])


def test_probabilities_are_the_networks_own() -> None:
    trained, images = make(), load(DATA).test.images
    found = probabilities(trained, images)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(60))
    torch.testing.assert_close(found, predict(trained.classifier(), images))


@pytest.mark.parametrize(("border", "inside", "inverted"), [(255, 0, True), (0, 255, False)])
def test_the_border_tells_whether_light_and_dark_are_swapped(border: int, inside: int, inverted: bool) -> None:
    image = torch.full(GREY, border, dtype=torch.uint8)
    image[:, 4:-4, 4:-4] = inside
    assert seems_inverted(image) is inverted


def test_command_shows_the_likeliest_classes_in_order(
    picture: Image.Image, image: Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(make(), tmp_path)
    picture.save(tmp_path / "a[b].png")
    path = str(tmp_path / "a[b].png")
    assert main(["2x:0", path, "--top", "2", "--results", str(tmp_path)]) == 0
    shares = predict(make().classifier(), image[None, None])[0]
    first, second = shares.argsort(descending=True)[:2].tolist()
    line = next(line for line in capsys.readouterr().out.splitlines() if "a[b].png" in line)
    assert [cell.strip() for cell in line.split("│")[2:4]] == [
        f"{first} {float(shares[first]):.1%}",
        f"{second} {float(shares[second]):.1%}",
    ]


def test_names_that_differ_at_their_ends_are_shown_whole(
    picture: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    keep(make(), tmp_path)
    names = [f"IMG_20240711_{'1234' * 10}{n}.png" for n in range(2)]
    for name in names:
        picture.save(tmp_path / name)
    assert main(["2x:0", *(str(tmp_path / name) for name in names), "--results", str(tmp_path)]) == 0
    column = "".join(line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if "│" in line)
    assert [str(tmp_path / name) in column for name in names] == [True, True]


def test_files_that_are_no_images_leave_the_answers_of_the_others(
    picture: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(make(), tmp_path)
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    picture.save(good)
    bad.write_bytes(good.read_bytes()[:100])
    assert main(["2x:0", str(bad), str(good), "--results", str(tmp_path)]) == SOME_RUN_FAILED
    printed = capsys.readouterr()
    assert "good.png" in printed.out
    assert "bad.png" not in printed.out
    assert f"error: {bad} cannot be read as an image" in printed.err
    with pytest.raises(ValueError, match=r"bad\.png cannot be read as an image"):
        main(["2x:0", str(bad), "--results", str(tmp_path)])


@pytest.mark.parametrize("command", [nin.predict.main, nin.cam.main, nin.export.main, nin.shift.main])
def test_a_network_of_other_code_is_used_with_import(
    command: Callable[[list[str]], int], picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pooling is added by a module beside it; the command then goes on to what is asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"my_pooling_of_{command.__module__.partition('.')[2]}"
    source = f"from nin.pooling import POOLINGS, AveragePool\nPOOLINGS['{name}'] = AveragePool\n"
    Path(f"{name}.py").write_text(source)
    trained = make()
    card = replace(
        trained.card,
        model=replace(trained.card.model, pooling=name),
        environment={**trained.card.environment, "plugins": f"{name}.py {digest(source.encode())}"},
    )
    keep(TrainedNetwork(trained.network, card), Path("results"))
    picture.save("photo.png")
    words = ["2x:0", "photo.png"] if command is nin.predict.main else ["2x:0"]
    if command is nin.export.main:
        words += ["--format", "torchscript"]
    with pytest.raises(ValueError, match=rf"needs the code of {name}\.py"):
        command(words)
    named = f"{name}.py" if command is nin.cam.main else name
    assert command([*words, "--import", named]) == 0
    keep(TrainedNetwork(trained.network, replace(card, environment={"plugins": f"{name}.py 0123"})), Path("results"))
    with pytest.raises(ValueError, match=f"the code of pooling '{name}' has changed since"):
        command([*words, "--import", named])
    del POOLINGS[name]


def test_a_module_that_cannot_be_imported_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        nin.predict.main(["2x:0", "photo.png", "--import", "my_missing"])
    assert (
        "argument --import: 'my_missing': ModuleNotFoundError: No module named 'my_missing'" in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):  # of whose name there is a module
        nin.predict.main(["2x:0", "photo.png", "--import", "nowhere/json.py"])
    assert "argument --import: 'nowhere/json.py': FileNotFoundError: " in capsys.readouterr().err


def test_more_classes_than_there_are_shows_all(picture: Image.Image, tmp_path: Path) -> None:
    keep(make(), tmp_path)
    picture.save(tmp_path / "a.png")
    assert main(["2x:0", str(tmp_path / "a.png"), "--top", "99", "--results", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("truncated", r"a\.png cannot be read as an image"),
        ("text", r"a\.png cannot be read as an image"),
        ("missing", r"there is no file .*a\.png"),
        ("folder", r"a\.png is a folder: name the images in it"),
        ("integers", r"a\.png cannot be read as an image"),
    ],
)
def test_what_is_no_whole_image_is_one_line_that_names_it(
    problem: str, message: str, picture: Image.Image, tmp_path: Path
) -> None:
    keep(make(), tmp_path)
    path = tmp_path / "a.png"
    match problem:
        case "truncated":
            picture.resize((200, 200)).save(path)
            path.write_bytes(path.read_bytes()[:-300])
        case "text":
            path.write_text("no image")
        case "folder":
            path.mkdir()
        case "integers":
            Image.fromarray(np.zeros((28, 28), np.int32)).save(path, format="TIFF")
    with pytest.raises(ValueError, match=message) as caught:
        main(["2x:0", str(path), "--results", str(tmp_path)])
    assert "\n" not in str(caught.value)


def test_what_was_made_of_a_file_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(make(), tmp_path)
    for name in ("a", "b"):
        Image.new("LA", (28, 28)).save(tmp_path / f"{name}.png")
    assert main(["2x:0", *(str(tmp_path / f"{name}.png") for name in ("a", "b")), "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("note: 2 of 2 images have transparent parts, which are shown white") == 1


def test_a_network_that_diverged_is_one_line(picture: Image.Image, tmp_path: Path) -> None:
    trained = make()
    next(trained.network.parameters()).data.fill_(torch.nan)
    keep(trained, tmp_path)
    picture.save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="its logits are not finite"):
        main(["2x:0", str(tmp_path / "a.png"), "--results", str(tmp_path)])
