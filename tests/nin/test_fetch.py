"""Data sets are found before they are fetched, verified before they are used, and read in their own formats."""

import hashlib
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import one_line
from small_files import WRITERS, idx, mnist_files, random_bytes, write, write_mnist

from nin import fetch
from nin.data import DATASETS, DataError, ImageData, data_root, load, shape
from nin.spec import DataSpec

FASHION = DataSpec(name="fashion-mnist", val_examples=2)


PROGRAMS = os.environ["PATH"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test downloads: torchvision's mirrors are down, there is no apt-get, and no Debian package is installed."""

    def down(dataset: str, folder: Path, limit_sec: int) -> None:
        raise fetch._FetchError("the mirrors are down")

    (tmp_path / "no-programs").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    monkeypatch.setattr(fetch, "_download", down)
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", tmp_path / "no-debian")


@pytest.fixture
def fashion(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Files in Fashion-MNIST's format, small, whose checksums count as its own."""
    files = mnist_files()
    monkeypatch.setattr(fetch, "FASHION_MNIST", {k: hashlib.sha256(v).hexdigest() for k, v in files.items()})
    return files


def raw(root: Path) -> Path:
    return root / "FashionMNIST" / "raw"


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_is_read_from_the_data_root(fashion: dict[str, bytes], root: Path, packed: bool) -> None:
    write(fashion, raw(root), packed=packed)
    data = load(replace(FASHION, val_examples=0), root)
    published = torch.from_numpy(random_bytes(10, 28, 28, seed=10))[:, None]
    assert torch.equal(data.test.images, published)
    assert data.test.labels.tolist() == list(range(10))
    assert (len(data.train.labels), data.train.labels.dtype) == (20, torch.int64)
    assert data.classes[0] == "T-shirt/top"


def test_then_where_debian_puts_it_and_is_left_as_torchvision_wants_it(
    fashion: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", write(fashion, tmp_path / "debian", packed=True))
    data = load(FASHION, root)

    from nin._torchvision import datasets

    theirs = datasets.FashionMNIST(root, train=False, download=False)
    assert torch.equal(theirs.data[:, None], data.test.images)
    assert torch.equal(theirs.targets, data.test.labels)
    assert sorted(path.name for path in raw(root).iterdir()) == sorted(fashion)  # and nothing temporary


def test_the_data_root_comes_before_debians_folder(
    fashion: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(fashion, raw(root))
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", write(dict.fromkeys(fashion, b"other"), tmp_path / "debian"))
    assert load(FASHION, root).num_classes == 10


def test_debians_folder_serves_a_data_root_that_cannot_be_written_to(
    fashion: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", write(fashion, tmp_path / "debian", packed=True))
    (tmp_path / "file").write_text("not a folder")
    assert len(load(FASHION, tmp_path / "file" / "data").train.labels) == 18


def test_then_the_mirrors(fashion: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_download", lambda dataset, folder, limit_sec: write(fashion, raw(folder), packed=True))
    load(FASHION, root)
    assert {path.name: path.read_bytes() for path in raw(root).iterdir()} == fashion
    assert [path.name for path in root.iterdir()] == ["FashionMNIST"]


def test_several_processes_may_leave_the_files_at_once(fashion: dict[str, bytes], root: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(fetch._keep, fashion, raw(root)) for _ in range(8)]:
            done.result()
    assert {path.name: path.read_bytes() for path in raw(root).iterdir()} == fashion


def fake_apt(folder: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch, *, lists: bool) -> None:
    """`apt-get` and `dpkg` that hand out a folder; without lists, `download` works only after `update`."""
    needs = "exit 0" if lists else '[ -e updated ] || { echo "E: Unable to locate package" >&2; exit 100; }'
    scripts = {
        "apt-get": f'case "$*" in *update) touch updated;; *) {needs.replace("exit 0", ":")}; touch some.deb;; esac',
        "dpkg": f'mkdir -p "$3/usr/share" && cp -r {shipped} "$3/usr/share/"',
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{PROGRAMS}")


@pytest.mark.parametrize("lists", [True, False])
def test_then_debians_package_whether_or_not_apts_lists_are_there(
    fashion: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lists: bool
) -> None:
    shipped = write(fashion, tmp_path / "fashion-mnist", packed=True)
    fake_apt(tmp_path / "no-programs", shipped, monkeypatch, lists=lists)
    load(FASHION, root)
    assert {path.name: path.read_bytes() for path in raw(root).iterdir()} == fashion


def test_else_one_line_says_where_it_was_looked_for_why_not_found_and_what_to_do(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(FASHION, root)
    message = one_line(caught)
    for said in (str(raw(root)), str(fetch.DEBIAN_FOLDER), "mirrors are down", "no apt-get", "NIN_DATA"):
        assert said in message
    assert "dataset-fashion-mnist" in message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + b"\x0b", lambda b: b"", lambda b: b"<html>"])
def test_a_damaged_file_is_named_and_neither_used_nor_overwritten(
    fashion: dict[str, bytes], root: Path, name: str, packed: bool, damage: Callable[[bytes], bytes]
) -> None:
    write(fashion, raw(root), packed=packed)
    path = raw(root) / (f"{name}.gz" if packed else name)
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(DataError, match=f"{path}.*delete it") as caught:
        load(FASHION, root)
    one_line(caught)
    assert path.read_bytes() == before


def test_a_damaged_file_of_debians_asks_for_the_package_again(
    fashion: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = fashion | {"t10k-images-idx3-ubyte": b"damaged"}
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", write(files, tmp_path / "debian", packed=True))
    with pytest.raises(DataError, match="install dataset-fashion-mnist again"):
        load(FASHION, root)


def test_what_a_mirror_sends_is_verified_too(
    fashion: dict[str, bytes], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fashion | {"t10k-images-idx3-ubyte": b"<html>please log in</html>"}
    monkeypatch.setattr(fetch, "_download", lambda dataset, folder, limit_sec: write(files, raw(folder)))
    with pytest.raises(DataError, match="checksum"):
        load(FASHION, root)
    assert list(root.iterdir()) == []


def test_a_data_root_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot write to .*NIN_DATA") as caught:
        load(FASHION, tmp_path / "file")
    one_line(caught)


def test_a_data_root_that_cannot_be_read_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(root: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    known = {**DATASETS, "mnist": replace(DATASETS["mnist"], read=forbidden)}
    monkeypatch.setattr("nin.sources.DATASETS", known)
    with pytest.raises(DataError, match=r"cannot be read from .*Permission denied.*NIN_DATA") as caught:
        load(DataSpec(name="mnist"), root)
    one_line(caught)


def test_fetching_is_given_up_after_its_time() -> None:
    with pytest.raises(fetch._FetchError, match="took longer than 1 s"):
        fetch._run([sys.executable, "-c", "import time; time.sleep(60)"], Path.cwd(), 1)


def test_what_a_failed_command_said_last_is_the_reason() -> None:
    with pytest.raises(fetch._FetchError, match=r"^E: no such package$"):
        fetch._run([sys.executable, "-c", "import sys; sys.exit('W: slow\\nE: no such package')"], Path.cwd(), 60)


def test_the_data_root_is_nin_data_or_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("NIN_DATA", raising=False)
    assert data_root() == Path("/home/somebody/.cache/nin-ablations/data")
    monkeypatch.setenv("NIN_DATA", "~/elsewhere")
    assert data_root() == Path("/home/somebody/elsewhere")


# The real one

REAL_ROOT, REAL_DEBIAN_FOLDER = data_root(), fetch.DEBIAN_FOLDER


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> ImageData:
    monkeypatch.setattr(fetch, "DEBIAN_FOLDER", REAL_DEBIAN_FOLDER)
    monkeypatch.setattr(fetch, "_keep", lambda files, folder: None)
    if not (raw(REAL_ROOT).exists() or REAL_DEBIAN_FOLDER.exists()):
        pytest.skip(f"Fashion-MNIST is not in {REAL_ROOT} and package dataset-fashion-mnist is not installed")
    return load(DataSpec(), REAL_ROOT)


def test_fashion_mnist_is_what_its_authors_say(real: ImageData) -> None:
    assert real.mean.tolist() == pytest.approx([0.2860], abs=5e-5)
    assert real.std.tolist() == pytest.approx([0.3530], abs=5e-5)
    assert torch.bincount(torch.cat([real.train.labels, real.val.labels])).tolist() == [6000] * 10
    assert torch.bincount(real.test.labels).tolist() == [1000] * 10
    assert [len(s.labels) for s in (real.train, real.val, real.test)] == [55_000, 5_000, 10_000]
    assert real.in_shape == (1, 28, 28)


# Other data sets, each in a few images in its own format


@pytest.mark.parametrize("name", WRITERS)
def test_each_data_set_is_read_in_its_own_format(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](root, monkeypatch)
    data = load(DataSpec(name=name, val_examples=2), root)
    assert (data.in_shape, data.num_classes) == shape(data.spec)
    assert data.test.images.shape == (10, *data.in_shape)
    labels = [*range(1, 10), 0] if name == "svhn" else list(range(10))  # SVHN's own files call the zero ten
    assert data.test.labels.tolist() == labels
    size = (10, 28, 28) if "mnist" in name else (10, 3, 32, 32)
    pixels = torch.from_numpy(random_bytes(*size, seed=10 if "mnist" in name else 0)).view(10, *data.in_shape)
    assert torch.equal(data.test.images, pixels)
    assert data.test.images.is_contiguous()


@pytest.mark.parametrize("name", WRITERS)
def test_each_data_set_that_is_missing_is_one_line(name: str, root: Path) -> None:
    with pytest.raises(DataError, match=r"could not be fetched \(the mirrors are down\).*NIN_DATA") as caught:
        load(DataSpec(name=name), root)
    one_line(caught)


@pytest.mark.parametrize("name", WRITERS)
def test_each_data_set_that_is_damaged_is_one_line_and_left_alone(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](root, monkeypatch)
    path = max((path for path in root.rglob("*") if path.is_file()), key=lambda path: ("train" in path.name, path))
    path.write_bytes(path.read_bytes()[:-7])
    before = path.read_bytes()
    with pytest.raises(DataError, match=f"{root}.* is damaged .*delete it") as caught:
        load(DataSpec(name=name, val_examples=2), root)
    one_line(caught)
    assert path.read_bytes() == before


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError("Unable to allocate 146 MiB")])
def test_files_that_cannot_be_read_now_are_not_called_damaged(
    error: Exception, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS["cifar-10"](root, monkeypatch)

    def refuse(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("pickle.load", refuse)
    with pytest.raises((DataError, MemoryError), match=r"cannot be read from .*Permission denied|Unable to allocate"):
        load(DataSpec(name="cifar-10", val_examples=2), root)


def test_a_label_beyond_the_classes_is_damage(root: Path) -> None:
    write(mnist_files() | {"train-labels-idx1-ubyte": idx(np.full(20, 10, np.uint8))}, root / "MNIST" / "raw")
    with pytest.raises(DataError, match="labels go beyond 10 classes"):
        load(DataSpec(name="mnist", val_examples=2), root)


def test_a_data_set_is_fetched_whole_or_not_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_download", lambda dataset, folder, limit_sec: write_mnist(dataset, folder))
    load(DataSpec(name="kmnist", val_examples=2), root)
    assert [path.name for path in root.iterdir()] == ["KMNIST"]


def test_a_data_root_that_is_relative_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def download(dataset: str, folder: Path, limit_sec: int) -> None:
        assert folder.is_absolute()
        write_mnist(dataset, folder)

    monkeypatch.setattr(fetch, "_download", download)
    load(DataSpec(name="kmnist", val_examples=2), Path("data"))
    assert (tmp_path / "data" / "KMNIST").exists()
