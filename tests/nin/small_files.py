"""Data sets of a few images each, in their own formats, and pictures in files."""

import gzip
import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from nin.spec import DataSpec

SYNTHETIC = DataSpec(name="synthetic", val_examples=200)


def random_bytes(*size: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def idx(array: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """The format of MNIST's files: two zeros, 8 for bytes, the number of dimensions, the dimensions, the data."""
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist_files(num_train: int = 20, num_test: int = 10) -> dict[str, bytes]:
    files = {}
    for part, count in (("train", num_train), ("t10k", num_test)):
        files[f"{part}-images-idx3-ubyte"] = idx(random_bytes(count, 28, 28, seed=count))
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(count, dtype=np.uint8) % 10)
    return files


def write(files: dict[str, bytes], folder: Path, *, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


# Finding Fashion-MNIST


def write_mnist(name: str, root: Path) -> None:
    write(mnist_files(), root / name / "raw")


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, num_classes: int) -> None:
    from nin._torchvision import datasets

    cls = datasets.CIFAR10 if num_classes == 10 else datasets.CIFAR100
    folder = root / cls.base_folder
    folder.mkdir(parents=True)
    labels = "labels" if num_classes == 10 else "fine_labels"

    def dump(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    batch = {"data": random_bytes(10, 3072), labels: list(range(10))}
    monkeypatch.setattr(cls, "train_list", [dump(name, batch) for name, _ in cls.train_list])
    monkeypatch.setattr(cls, "test_list", [dump(name, batch) for name, _ in cls.test_list])
    names = [f"class {k}" for k in range(num_classes)]
    md5 = dump(cls.meta["filename"], {cls.meta["key"]: names})[1]
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": md5})


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nin._torchvision import datasets

    root.mkdir(parents=True)
    parts = {}
    for part in ("train", "test"):
        path = root / f"{part}_32x32.mat"
        images = random_bytes(10, 3, 32, 32).transpose(2, 3, 1, 0)
        scipy.io.savemat(path, {"X": images, "y": np.arange(1, 11, dtype=np.uint8)[:, None]})
        parts[part] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", parts)


WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "mnist": lambda root, monkeypatch: write_mnist("MNIST", root),
    "kmnist": lambda root, monkeypatch: write_mnist("KMNIST", root),
    "cifar-10": lambda root, monkeypatch: write_cifar(root, monkeypatch, 10),
    "cifar-100": lambda root, monkeypatch: write_cifar(root, monkeypatch, 100),
    "svhn": write_svhn,
}


def paint(path: Path, colour: tuple[int, ...] = (200, 100, 0), mode: str = "RGB", size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size, size), colour if len(colour) > 1 else colour[0]).save(path)
