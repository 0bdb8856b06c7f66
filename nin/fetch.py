"""Where data sets come from: the data root, Debian's folder, or a download, with the bytes verified. Errors are one line."""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
SOCKET_TIMEOUT_SEC = 5
DOWNLOAD_TIMEOUT_SEC = 300

# SHA-256 of the unpacked files. Archives are compressed anew by whoever ships them, so their own sums differ.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class DataError(ValueError):
    """A data set is missing or damaged; the message is one line that says what to do."""


def data_root() -> Path:
    """Where data sets are kept: $NIN_DATA, else ~/.cache/nin-ablations/data."""
    return Path(os.environ.get("NIN_DATA") or Path.home() / ".cache" / "nin-ablations" / "data")


def find_fashion_mnist(root: Path) -> None:
    """Make sure that the four verified files lie unpacked in root/FashionMNIST/raw, as torchvision wants them.

    Looks there, then in Debian's folder, then fetches: from torchvision's mirrors, else out of Debian's package.
    Raises DataError if a file is damaged or nowhere to be had; a damaged file is left as it is.
    """
    raw = root / "FashionMNIST" / "raw"
    if not all(_take(raw, name, [raw, DEBIAN_FOLDER]) for name in FASHION_MNIST):
        fetched = _fetch_by_torchvision("FashionMNIST", root) or _fetch_from_debian(raw)
        if not fetched or not all(_take(raw, name, [raw]) for name in FASHION_MNIST):
            raise DataError(
                f"Fashion-MNIST is not in {raw} nor in {DEBIAN_FOLDER}, and could not be fetched: install Debian's package "
                f"{DEBIAN_PACKAGE}, or put its four .gz files into {raw} (NIN_DATA names another data root)"
            )


def find_with_torchvision(dataset: str, root: Path, present: bool) -> None:
    """Fetch one of torchvision's data sets by its class name, unless it is `present`. Raises DataError if it cannot be had."""
    if not present and not _fetch_by_torchvision(dataset, root):
        raise DataError(
            f"{dataset} is not in {root} and could not be fetched: put its files there as torchvision lays them out"
        )


def _take(raw: Path, name: str, folders: list[Path]) -> bool:
    """Whether the file lies verified in `raw`, unpacking it from the first folder that has it."""
    plain = raw / name
    if plain.exists():
        _verify(plain, name, plain.read_bytes())
        return True
    for folder in folders:
        packed = folder / f"{name}.gz"
        if packed.exists():
            try:
                content = gzip.decompress(packed.read_bytes())
            except (OSError, EOFError) as error:
                raise DataError(f"{packed} is damaged ({error}): delete it and try again") from error
            _verify(packed, name, content)
            _write(plain, content)
            return True
    return False


def _verify(path: Path, name: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != FASHION_MNIST[name]:
        raise DataError(f"{path} is damaged (its checksum is not that of Fashion-MNIST): delete it and try again")


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, since several processes may do this at once."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        Path(file.name).chmod(0o644)
        Path(file.name).replace(path)
    except OSError as error:
        raise DataError(
            f"cannot write {path} ({error.strerror}): make it writable, or name another root in NIN_DATA"
        ) from error


def _fetch_by_torchvision(dataset: str, root: Path) -> bool:
    """Whether torchvision's own download went well. In a process of its own, since looking up a host can hang."""
    each = "[dict(split='train'), dict(split='test')]" if dataset == "SVHN" else "[dict(train=True), dict(train=False)]"
    code = (
        f"import socket; socket.setdefaulttimeout({SOCKET_TIMEOUT_SEC})\n"
        "from nin._torchvision import datasets; import sys\n"
        f"for part in {each}: getattr(datasets, sys.argv[1])(sys.argv[2], download=True, **part)"
    )
    return _runs([sys.executable, "-c", code, dataset, str(root)], cwd=Path.cwd())


def _fetch_from_debian(raw: Path) -> bool:
    """Whether Debian's package could be had and unpacked into `raw`; needs apt-get and dpkg, but not root."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "lists" / "partial").mkdir(parents=True)
        own_lists = ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder}"]
        downloaded = _runs(["apt-get", "download", DEBIAN_PACKAGE], folder) or (
            _runs(["apt-get", *own_lists, "update"], folder)
            and _runs(["apt-get", *own_lists, "download", DEBIAN_PACKAGE], folder)
        )
        if not downloaded:
            return False
        package = next(folder.glob("*.deb"))
        if not _runs(["dpkg", "-x", package.name, "unpacked"], folder):
            return False
        shipped = [path.parent for path in (folder / "unpacked").rglob("train-images-idx3-ubyte.gz")]
        return all(_take(raw, name, shipped) for name in FASHION_MNIST)


def _runs(command: list[str], cwd: Path) -> bool:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=DOWNLOAD_TIMEOUT_SEC, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
