"""A folder of images: its classes and parts are found as people lay them out, or one line says what was found and expected."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from trained_networks import make

from nin.data import DataError, hashed_order, load
from nin.folders import MAX_DEPTH, ImageFolder, find
from nin.predict import read_images
from nin.spec import DataSpec, ModelSpec


def lay_out(folder: Path, *files: str) -> Path:
    """Small images, and empty files where the name is no image's. A name that ends in / is an empty folder."""
    for name in files:
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("L", (2, 2)).save(path)
        else:
            path.touch()
    return folder


def found(folder: ImageFolder) -> dict[str, dict[str, list[str]]]:
    """Names of files by part and class."""
    return {
        part: {name: [file.name for file in files] for name, files in classes.items()}
        for part, classes in folder.parts.items()
    }


def error_of(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        find(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


CATS_AND_DOGS = {"cat": ["0.png"], "dog": ["1.png"]}


def both(*places: str) -> list[str]:
    """A cat and a dog in each of these places."""
    return [f"{place}{name}" for place in places for name in ("cat/0.png", "dog/1.png")]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("Training", "Validation", "Testing"),
        ("seg_train", "seg_dev", "seg_test"),
        ("training_set", "validation_set", "test_set"),
        ("trainImages", "valImages", "testImages"),
        ("train2017", "val2017", "test2017"),
    ],
)
def test_the_usual_names_of_parts_are_known_in_any_case(train: str, val: str, test: str, tmp_path: Path) -> None:
    lay_out(tmp_path, *both(f"{train}/", f"{val}/", f"{test}/"))
    folder = find(tmp_path)
    assert found(folder) == {"train": CATS_AND_DOGS, "val": CATS_AND_DOGS, "test": CATS_AND_DOGS}
    assert folder.notes == []


@pytest.mark.parametrize("wrapper", ["", "pets/", "pets/images/", "data/train/"])
def test_folders_that_merely_wrap_others_are_opened(wrapper: str, tmp_path: Path) -> None:
    assert found(find(lay_out(tmp_path, *both(wrapper)))) == {"train": CATS_AND_DOGS}


def test_so_they_are_within_parts_as_archives_leave_them(tmp_path: Path) -> None:
    lay_out(tmp_path, *both("seg_train/seg_train/", "seg_test/seg_test/"), "seg_pred/seg_pred/9.png")
    folder = find(tmp_path)
    assert found(folder) == {"train": CATS_AND_DOGS, "test": CATS_AND_DOGS}
    assert folder.notes == [
        "its classes lie in seg_train/seg_train, seg_test/seg_test",
        "not used: seg_pred/ (1 folders of images)",
    ]


def test_a_wrapper_may_have_other_things_beside_it(tmp_path: Path) -> None:
    folder = find(lay_out(tmp_path, *both("images/"), "annotations/0.xml", "README.txt"))
    assert found(folder) == {"train": CATS_AND_DOGS}
    assert folder.notes == ["its classes lie in images"]


def test_a_class_may_be_called_as_a_part_is(tmp_path: Path) -> None:
    lay_out(tmp_path, "bus/0.png", "car/0.png", "train/0.png")
    assert find(tmp_path).classes == ("bus", "car", "train")
    assert find(lay_out(tmp_path / "checks", "invalid/0.png", "valid/0.png")).classes == ("invalid", "valid")


@pytest.mark.parametrize("part", ["train/", ""])
@pytest.mark.parametrize(
    "hidden",
    [
        *(".ipynb_checkpoints/0-checkpoint.png", "cat/.ipynb_checkpoints/0.png", "cat/._0.png", ".git/0.png"),
        *("__MACOSX/cat/0.png", "@eaDir/0.png", ".DS_Store", "cat/Thumbs.db", ".hidden.png"),
    ],
)
def test_what_is_hidden_is_ignored_without_a_word(part: str, hidden: str, tmp_path: Path) -> None:
    folder = find(lay_out(tmp_path, *both(part), f"{part}{hidden}"))
    assert found(folder) == {"train": CATS_AND_DOGS}
    assert folder.notes == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no images and no folders of classes; expected are <class>/<image>, or train/<class>/<image>"),
        (["0.png", "1.png"], "has 2 images and no folders of classes; expected are"),
        (["cat/0.png"], "has only one class, 'cat'; classification needs two or more"),
        (["cat/0.png", "dog/"], "no images in 'dog'; remove what is no class, or put images into it (jpg, jpeg"),
        (["cat/0.png", "dog/1.heic"], "no images in 'dog'"),
        (["train/0.png", "test/0.png"], "test contains images but no class folders, so their classes are unknown"),
        (["train/0.png", "labels.csv"], "train contains images but no class folders"),
        ([*both("train/"), "test/0.png"], "test contains images but no class folders"),
        ([*both(""), "test/0.png"], "test contains images but no class folders"),
        (["test tube/0.png", "beaker/0.png"], "If it is a class, rename it: by its name it is a folder for test"),
        (
            ["cat/train/0.png", "cat/test/0.png", "dog/train/0.png", "dog/test/0.png"],
            "put the parts outermost if these are classes, as in train/cat/",
        ),
        (both("test/"), "has test/ (2 folders of images), but no folder for training"),
        (both("train/", "Training/"), "which is for training, and which for test?"),
        ([*both("train/"), "test/cat/0.png"], "only in train/ 'dog'; only in test/ none"),
        (
            ["train/cat/0.png", "train/dog/0.png", "test/cat/0.png", "test/fox/0.png"],
            "train/ 'dog'; only in test/ 'fox'",
        ),
        (
            [*both("train/"), "test/Cat/0.png", "test/dog /0.png"],
            "'cat' and 'Cat', 'dog' and 'dog ' differ in case, spaces",
        ),
        ([*both("train/", "test/"), "val/cat/0.png"], "val/ must have folders of the same classes"),
        (
            [*both("pets/train/", "pets/test/"), "masks/0.png"],
            "pets has folders for test and train of its own, and others lie",
        ),
        (
            both("fold1/train/", "fold1/test/", "fold2/train/", "fold2/test/"),
            "fold1 has folders for test and train of its",
        ),
        (["/".join(["a"] * (MAX_DEPTH + 2)) + "/0.png"], f"lies more than {MAX_DEPTH} folders deep"),
    ],
)
def test_what_is_not_clear_is_one_line_of_what_was_found_and_is_expected(
    files: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "pets").mkdir()
    assert message in error_of(lay_out(tmp_path / "pets", *files))


def test_many_classes_that_differ_are_counted(tmp_path: Path) -> None:
    lay_out(tmp_path, *both("train/", "test/"), *(f"train/{k}/0.png" for k in range(9)))
    assert "'0', '1', '2', '3', '4' and 4 more" in error_of(tmp_path)


def test_letters_that_unicode_writes_in_two_ways_are_pointed_out(tmp_path: Path) -> None:
    lay_out(tmp_path, "train/caf\u00e9/0.png", "train/dog/0.png", "test/cafe\u0301/0.png", "test/dog/0.png")
    assert "differ in case, spaces or accents alone" in error_of(tmp_path)


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "two\nlines"])
def test_a_class_whose_name_is_no_text_is_refused(name: str, tmp_path: Path) -> None:
    error = error_of(lay_out(tmp_path, *both(""), f"{name}/0.png"))
    assert "contains unprintable or non-UTF-8 characters: rename it" in error
    error.encode()


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    lay_out(tmp_path, *both("train/", "test/"), "extra/9.png", "cover.png", "train/cat/notes.txt", "train/dog/2.heic")
    assert find(tmp_path).notes == [
        "not used: extra/ (1 images)",
        "not used: 1 images outside the folders of classes",
        "not read: files of classes that are no images by their names (1 .txt, 1 .heic)",
    ]


@pytest.mark.parametrize("place", ["link", "cat/link", "cat/deep/link"])
@pytest.mark.parametrize("target", [".", "cat"])
def test_a_link_that_leads_back_is_refused(place: str, target: str, tmp_path: Path) -> None:
    lay_out(tmp_path, *both(""), "cat/deep/2.png")
    (tmp_path / place).symlink_to(tmp_path / target)
    if place == "link" and target == "cat":
        assert find(tmp_path).classes == ("cat", "dog", "link")  # another name, but no way back
    else:
        assert f"{place} is a link back to {(tmp_path / target).resolve()}" in error_of(tmp_path)


def test_a_message_names_the_folder_that_a_link_in_the_data_root_leads_to(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    lay_out(tmp_path, "pets/cat/1.png")
    (tmp_path / "root" / "pets").symlink_to(tmp_path / "pets")
    with pytest.raises(DataError, match=f"^{tmp_path / 'pets'} has only one class, 'cat'"):
        load(DataSpec(name="folder:pets", val_examples=0), tmp_path / "root")


def test_a_link_to_itself_or_to_nothing_is_one_line(tmp_path: Path) -> None:
    root = lay_out(tmp_path, *both("pets/"))
    (root / "pets" / "cat" / "2.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"there is no file .*2\.png"):
        load(DataSpec(name="folder:pets", val_examples=0), root)
    (root / "pets" / "cat" / "2.png").unlink()
    (root / "pets" / "cat" / "loop").symlink_to("loop")
    assert "cannot be read" in error_of(root / "pets")


def test_a_folder_of_links_to_another_disk_is_a_folder(tmp_path: Path) -> None:
    lay_out(tmp_path / "disk", *both(""))
    (tmp_path / "pets").symlink_to(tmp_path / "disk")
    assert found(find(tmp_path / "pets")) == {"train": CATS_AND_DOGS}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(lay_out(tmp_path, *both("")) / "cat" / "9.png")
    assert found(find(tmp_path)) == {"train": CATS_AND_DOGS}


def test_a_folder_that_may_not_be_listed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be an empty one, and its images missing without a word."""
    scandir = os.scandir

    def forbidding(path: Path) -> Any:
        if path.name == "deep":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    lay_out(tmp_path, *both(""), "cat/deep/2.png")
    monkeypatch.setattr(os, "scandir", forbidding)
    assert "cat/deep cannot be read (Permission denied)" in error_of(tmp_path)


def test_classes_and_files_come_in_torchvisions_order(tmp_path: Path) -> None:
    """So that data sets from before keep their checksums."""
    from nin._torchvision import datasets

    names = ("b", "B", "a-b", "a", "é")
    lay_out(
        tmp_path, *(f"{name}/{inner}{k}.png" for name in names for inner in ("", "x/", "x-y/", "x/z/") for k in (10, 9))
    )
    theirs = datasets.ImageFolder(str(tmp_path))
    assert list(find(tmp_path).classes) == theirs.classes
    assert [(str(file), label) for file, label in find(tmp_path).samples("train")] == theirs.samples


# One file, several readers

MLP = ModelSpec(trunk="identity", head="mlp", hidden=2)

NAMES = st.text("abcé '\"%#.-_ 1", min_size=1, max_size=6).filter(lambda name: name.strip("."))
MODES = st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])


@st.composite
def trees(draw: st.DrawFn) -> dict[str, tuple[str, str, int]]:
    """A folder of two or three classes: where each image lies, in which mode and turned in which way."""
    classes = draw(st.lists(NAMES.map(lambda name: f"c{name}"), min_size=2, max_size=3, unique_by=str.casefold))
    files = {}
    for part in ("train", "test"):
        for name in classes:
            for k in range(draw(st.integers(1, 3))):
                inner = draw(st.lists(NAMES, max_size=2))
                mode, suffix = draw(MODES), draw(st.sampled_from([".png", ".TIF"]))
                suffix = ".tif" if mode == "CMYK" else suffix
                files["/".join([part, name, *inner, f"{k}{suffix}"])] = (name, mode, draw(st.integers(1, 8)))
    return files


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=trees(), data=st.data())
def test_training_prediction_and_export_see_the_same_of_every_file(
    tree: dict[str, tuple[str, str, int]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as name:
        root = Path(name)
        pets = root / "pets"
        visible: dict[str, str] = {}
        for number, (place, (label, mode, tag)) in enumerate(tree.items()):
            path = pets / place
            path.parent.mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            exif[274] = tag
            picture = Image.frombytes("RGBA", (3, 2), bytes((37 * number + 11 * k) % 256 for k in range(24)))
            picture.convert(mode).save(path, exif=exif)
            if not any(part.startswith(".") for part in Path(place).parts):
                visible[place] = label
        link = data.draw(st.sampled_from([None, *visible]), label="file that a link shows once more")
        if link:
            (pets / link).with_name("zz link.png").symlink_to(pets / link)
            visible[str(Path(link).with_name("zz link.png"))] = visible[link]
        seen = [place.split("/")[:2] for place in visible]
        complete = {f"{part}/{label}" for part in ("train", "test") for label, _, _ in tree.values()}
        if {"/".join(each) for each in seen} != complete:
            with pytest.raises(DataError):
                load(DataSpec(name="folder:pets", val_examples=0), root)
            return
        images = load(DataSpec(name="folder:pets", val_examples=0, image_size=4), root)
        folder = find(pets)
        for part, split in (("train", images.train), ("test", images.test)):
            files = [file for file, _ in folder.samples(part)]
            assert {str(file.relative_to(pets)) for file in files} == {p for p in visible if p.startswith(part)}
            order = range(len(files)) if part == "test" else hashed_order(images.spec.split, len(files)).tolist()
            for position, i in enumerate(order):
                assert images.classes[int(split.labels[position])] == visible[str(files[i].relative_to(pets))]
                read, _ = read_images([files[i]], images.in_shape)
                assert torch.equal(read[0], split.images[position])
        prepared, _ = next(images.batches(images.test, len(images.test.labels)))
        served = make(MLP, images.spec, loaded=images).classifier().preprocessing
        torch.testing.assert_close(served(images.test.images), prepared)
