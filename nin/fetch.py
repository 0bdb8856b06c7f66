"""Find data sets in the data root or Debian's folder, or download them, and verify their bytes. Errors are one line."""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nin.text import one_line

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
SOCKET_TIMEOUT_SEC = 5
FASHION_MNIST_LIMIT_SEC = 120  # 30 MB, for each place that it is fetched from
TORCHVISION_LIMIT_SEC = 1800  # up to 250 MB

# SHA-256 of the unpacked files. Archives are compressed anew by whoever ships them, so their own sums differ.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class DataError(ValueError):
    """A data set is missing or damaged; the message is one line that says what to do."""


class _FetchError(Exception):
    """Fetching from one place failed; the message says why."""


def data_root() -> Path:
    """Return the folder of data sets: $NIN_DATA, else ~/.cache/nin-ablations/data."""
    return expanded(os.environ.get("NIN_DATA") or "~/.cache/nin-ablations/data")


def expanded(path: str | Path) -> Path:
    """Return the path with "~" and "~user" replaced. Raises DataError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: {one_line(error)}") from error


def fashion_mnist(root: Path) -> dict[str, bytes]:
    """Return the contents of the four files of Fashion-MNIST by their names, unpacked and verified.

    A file is searched in root/FashionMNIST/raw, where torchvision keeps it, then in Debian's folder, then fetched: from
    torchvision's mirrors, else from Debian's package. Files that were not in the root are kept there.
    Raises DataError if a file is damaged or cannot be found or fetched; a damaged file is left as it is.
    """
    raw = root / "FashionMNIST" / "raw"
    files: dict[str, bytes] = {}
    for folder in (raw, DEBIAN_FOLDER):
        for name in FASHION_MNIST.keys() - files.keys():
            content = _read(folder, name)
            if content is not None:
                files[name] = content
    if files.keys() == FASHION_MNIST.keys():
        with suppress(OSError):  # a root that cannot be written to costs only time
            _keep(files, raw)
        return files
    with _scratch(root) as scratch:
        files = _fetch_fashion_mnist(scratch, raw) | files
        _keep(files, raw)
    return files


def fetch_by_torchvision(dataset: str, root: Path) -> None:
    """Fetch one of torchvision's data sets, by its class name, into `root`; existing files stay as they are.

    Raises DataError if it cannot be fetched.
    """
    with _scratch(root) as scratch:
        try:
            _download(dataset, scratch, TORCHVISION_LIMIT_SEC)
        except _FetchError as error:
            raise DataError(
                f"{dataset} is not in {root} and could not be fetched ({error}): put it there as torchvision lays it out, "
                "or name another data root in NIN_DATA"
            ) from error
        for path in scratch.iterdir():
            if path.suffix != ".gz" and not (root / path.name).exists():
                with suppress(OSError):  # another process was faster
                    path.rename(root / path.name)


def _read(folder: Path, name: str) -> bytes | None:
    """Return the verified content of a file of Fashion-MNIST, plain or packed, or None. Raises DataError if it is damaged."""
    plain, packed = folder / name, folder / f"{name}.gz"
    path = plain if plain.exists() else packed
    if not path.exists():
        return None
    remedy = f"install {DEBIAN_PACKAGE} again" if folder == DEBIAN_FOLDER else "delete it and try again"
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path == packed else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}): {remedy}") from error
    if hashlib.sha256(content).hexdigest() != FASHION_MNIST[name]:
        raise DataError(f"{path} is damaged (its checksum is not that of Fashion-MNIST): {remedy}")
    return content


def _keep(files: dict[str, bytes], folder: Path) -> None:
    """Write missing files, each whole or not at all, since several processes may write at once."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if not (folder / name).exists():
            with tempfile.TemporaryDirectory(prefix=".", dir=folder) as temporary:
                part = Path(temporary) / name
                part.write_bytes(content)
                part.replace(folder / name)


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """Context with a temporary folder inside the data root, from which fetched files can be moved into place in one step.

    Raises DataError if the root cannot be written to.
    """
    root = root.absolute()  # the programs that fetch run in other folders
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=root) as scratch:
            yield Path(scratch)
    except OSError as error:
        raise DataError(
            f"cannot write to {root} ({error.strerror or error}): name another data root in NIN_DATA"
        ) from error


def _fetch_fashion_mnist(scratch: Path, raw: Path) -> dict[str, bytes]:
    reasons = []
    for place, fetch in (("torchvision's mirrors", _from_mirrors), ("Debian's package", _from_debian)):
        try:
            folder = fetch(scratch)
            files = {name: _read(folder, name) for name in FASHION_MNIST}
        except (_FetchError, DataError) as error:
            reasons.append(f"{place}: {error}")
            continue
        return {name: content for name, content in files.items() if content is not None}
    raise DataError(
        f"Fashion-MNIST is not in {raw} nor in {DEBIAN_FOLDER}, and could not be fetched ({'; '.join(reasons)}): install "
        f"Debian's package {DEBIAN_PACKAGE}, or put its four .gz files into {raw} (NIN_DATA names another data root)"
    )


def _from_mirrors(scratch: Path) -> Path:
    _download("FashionMNIST", scratch, FASHION_MNIST_LIMIT_SEC)
    return scratch / "FashionMNIST" / "raw"


def _from_debian(scratch: Path) -> Path:
    """Unpack Debian's package and return its folder. Needs apt-get and dpkg, but neither root nor up-to-date lists."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise _FetchError("there is no apt-get here")
    (scratch / "lists" / "partial").mkdir(parents=True)
    apt = ["apt-get", "-o", f"Acquire::http::Timeout={SOCKET_TIMEOUT_SEC}", "-o", "Acquire::Retries=0"]
    own_lists = ["-o", f"Dir::State::Lists={scratch / 'lists'}", "-o", f"Dir::Cache={scratch}"]
    limit = FASHION_MNIST_LIMIT_SEC
    try:
        _run([*apt, "download", DEBIAN_PACKAGE], scratch, limit)
    except _FetchError:  # the machine's lists are missing or old
        _run([*apt, *own_lists, "update"], scratch, limit)
        _run([*apt, *own_lists, "download", DEBIAN_PACKAGE], scratch, limit)
    for package in scratch.glob("*.deb"):
        _run(["dpkg", "-x", package.name, "unpacked"], scratch, limit)
    for path in scratch.glob("unpacked/**/train-images-idx3-ubyte.gz"):
        return path.parent
    raise _FetchError("the package does not hold the data set")


def torchvision_parts(dataset: str) -> tuple[dict[str, str | bool], dict[str, str | bool]]:
    """Return the arguments with which torchvision's class of that name gives its training and its test images."""
    return ({"split": "train"}, {"split": "test"}) if dataset == "SVHN" else ({"train": True}, {"train": False})


def _download(dataset: str, folder: Path, limit_sec: int) -> None:
    """Download by torchvision in its own process, since looking up a host can hang regardless of a socket's time-out."""
    code = (
        f"import socket, sys; socket.setdefaulttimeout({SOCKET_TIMEOUT_SEC})\n"
        "from nin._torchvision import datasets\n"
        f"for part in {torchvision_parts(dataset)}: getattr(datasets, sys.argv[1])(sys.argv[2], download=True, **part)"
    )
    _run([sys.executable, "-c", code, dataset, str(folder)], Path(__file__).parents[1], limit_sec)


def _run(command: list[str], cwd: Path, limit_sec: int) -> None:
    """Run a command. Raises _FetchError with its last line of output if it fails or takes longer than `limit_sec`."""
    try:
        subprocess.run(
            command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_sec, check=True, text=True
        )
    except OSError as error:
        raise _FetchError(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise _FetchError(f"took longer than {limit_sec} s") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"{command[0]} failed"]
        raise _FetchError(lines[-1].strip()) from error
