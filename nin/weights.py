"""Keep trained networks on disk: one safetensors file with the weights and everything needed to use them.

Unlike a pickle, such a file runs no code when it is read. Its metadata hold a card: the network's specification, its data and its
accuracy. `nin.export`, `nin.predict`, `nin.cam` and `nin.shift` start from it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dacite
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

import nin.data
from nin.data import DataError, ImageData, resized
from nin.model import Network, build_model
from nin.registry import added
from nin.spec import DataSpec, ModelSpec, Shape, TrainSpec
from nin.text import reason, shortened

SUFFIX = ".safetensors"
CARD = "card"  # the key of the file's metadata that holds the card, as JSON
SUM = "sha256"  # the card's key of the checksum over itself and the tensors; files written before 2026-12 have none
MAX_LISTED = 6  # networks that a message names


@dataclass(frozen=True)
class Card:
    """Description of a trained network: its specification, its data and its test accuracy.

    name           "<study>/<protocol>/<variant>:<seed>", which `find` understands
    outcome        outcome of the training (`nin.history.History`)
    image_shape    (C, H, W) of the data set's own images; in_shape is that of the network's inputs
    mean, std      normalisation of pixels in [0, 1] by channel: (pixel - mean) / std
    data_checksum  checksum of the images and labels of all splits (`nin.data.ImageData`)
    test_accuracy  fraction of `test_examples`, in the precision of the training; test_interval is its 95 % interval
    gflops         10^9 FLOPs of one image's forward pass, 2 per multiply-accumulate
    environment    device, versions and commit of the training
    """

    name: str
    run_id: str
    seed: int
    outcome: str
    model: ModelSpec
    data: DataSpec
    train: TrainSpec
    image_shape: Shape
    in_shape: Shape
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data_checksum: str
    test_accuracy: float
    test_interval: tuple[float, float]
    test_examples: int
    params_trunk: int
    params_head: int
    gflops: float
    environment: dict[str, str]

    @property
    def label(self) -> str:
        """Variant and seed: the part of the name that distinguishes the networks of a study under a protocol."""
        variant, _, seed = self.name.split("/", 2)[-1].rpartition(":")
        return f"{variant} seed {seed}"

    def diverged(self, lacks: str) -> ValueError:
        """Return the error that the network's outputs are not finite; `lacks` says what follows: "has no class maps"."""
        return ValueError(f"{self.name} {lacks}: its logits are not finite, as after a run that diverged")


@dataclass(frozen=True, repr=False)
class TrainedNetwork:
    """A network in evaluation mode, with its card; on the CPU when loaded."""

    network: Network
    card: Card

    def __repr__(self) -> str:
        card = self.card
        return f"TrainedNetwork({card.name}: {card.test_accuracy:.1%} right on the test images of {card.data.name})"

    def classifier(self, probabilities: bool = False) -> "Classifier":
        """Return the network behind its preprocessing, which takes images as bytes on the network's device."""
        return Classifier(self, probabilities).eval().to(next(self.network.parameters()).device)


class Preprocessing(nn.Module):
    """Normalise and resize images, bytes (N, C, H, W) in the data set's own size, to the network's inputs."""

    scale_C11: Tensor
    shift_C11: Tensor

    def __init__(self, card: Card) -> None:
        super().__init__()
        mean_C11, std_C11 = (torch.tensor(values)[:, None, None] for values in (card.mean, card.std))
        self.register_buffer("scale_C11", 1 / (255 * std_C11))
        self.register_buffer("shift_C11", -mean_C11 / std_C11)
        self.image_size = card.image_shape[1:]
        self.in_size = card.in_shape[1:]

    def forward(self, bytes_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> (N, C, H', W') float32."""
        x_NCHW = torch.addcmul(self.shift_C11, bytes_NCHW.to(torch.float32), self.scale_C11)
        if self.in_size != self.image_size:
            x_NCHW = resized(x_NCHW, self.image_size, self.in_size)
        return x_NCHW


class Classifier(nn.Module):
    """Classify images, uint8 (N, C, H, W) in the data set's own size: logits or probabilities (N, K)."""

    def __init__(self, trained: TrainedNetwork, probabilities: bool = False) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(trained.card)
        self.network = trained.network
        self.last = nn.Softmax(dim=1) if probabilities else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 -> (N, K) float32. The argument's name is the input's in exported files."""
        outputs_NK: Tensor = self.last(self.network(self.preprocessing(images)))
        return outputs_NK


def to_bytes(network: nn.Module, card: Card) -> bytes:
    """Return the file's content: parameters and buffers of `network`, and `card`."""
    # Copies, because safetensors refuses names that share memory, as those of a layer that is used twice
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    content = asdict(card)
    # A single entry: safetensors writes several in any order, and equal networks would have unequal files.
    return save_tensors(tensors, metadata={CARD: json.dumps(content | {SUM: _checksum(content, tensors)})})


def _checksum(card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(card).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_card(path: Path) -> Card:
    """Read the card, without the weights. Raises ValueError, in one line, if the file holds no network or is damaged."""
    return _read_card(path)[0]


def _read_card(path: Path) -> tuple[Card, dict[str, Any], str]:
    """Read the card, its content in JSON, and the checksum, if there is one. Raises as `read_card` does."""
    try:
        with safe_open(path, framework="np") as file:
            content = json.loads((file.metadata() or {})[CARD])
        checksum = content.pop(SUM, "")
        card = dacite.from_dict(Card, content, dacite.Config(strict=True, cast=[tuple]))
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, dacite.DaciteError) as error:
        raise _damaged(path, error) from error
    return card, content, checksum


def load(path: Path) -> TrainedNetwork:
    """Load the network in that file.

    Raises ValueError, in one line, if the file holds no network or is damaged, or if it needs added code that is not loaded or has
    changed since the training.
    """
    card, content, checksum = _read_card(path)
    with _naming_code(card):
        network = build_model(card.model, card.in_shape, len(card.classes))
    for addition in added({f"model.{name}": value for name, value in asdict(card.model).items()}):
        if addition.digest not in card.environment.get("plugins", ""):
            raise ValueError(
                f"the code of {addition.kind} {addition.name!r} has changed since {card.name} was trained with "
                f"{card.environment.get('plugins')}: load that version, or train again"
            )
    try:
        tensors = load_tensors(path.read_bytes())
        if checksum and checksum != _checksum(content, tensors):
            raise RuntimeError("it has another checksum")
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        raise _damaged(path, error) from error
    return TrainedNetwork(network.eval(), card)


def load_data(card: Card) -> ImageData:
    """Load the data that the network was trained and tested on. Raises ValueError if the data here has another checksum."""
    with _naming_code(card):
        data = nin.data.load(card.data)
    if data.checksum != card.data_checksum:
        raise ValueError(f"data set {card.data.name!r} as found here is not what {card.name} was trained and tested on")
    return data


@contextmanager
def _naming_code(card: Card) -> Iterator[None]:
    """Context in which a ValueError also names the added code that the network needs; not one of files that are missing."""
    try:
        yield
    except DataError:
        raise
    except ValueError as error:
        code = card.environment.get("plugins")
        needs = f"{card.name} needs the code of {code}: import it first (--import MODULE, or a file); " if code else ""
        raise ValueError(f"{needs}{error}") from error


def find(name: str, results: Path) -> Path:
    """Find the file of a trained network by its path, the beginning of a run_id, or the end of its card's name ("quick/2x:0", "2x:0").

    Names and run_ids are searched in `<results>/<study>/<protocol>/weights`. Raises ValueError, listing the networks there, if the
    name matches none, or several of different runs.
    """
    if Path(name).is_file():
        return Path(name)
    if name.endswith(SUFFIX):
        raise ValueError(f"there is no file {name}")
    there = {path: _name(path) for path in sorted(results.glob(f"*/*/weights/*{SUFFIX}"))}
    found = {
        path.stem: path
        for path, card_name in there.items()
        if (name and path.stem.startswith(name)) or f"/{card_name}".endswith(f"/{name}")
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        listed = _listed({path: there[path] for path in found.values()})
        are_told_apart = len({there[path] for path in found.values()}) > 1  # not where only settings differ
        newest = max(found.values(), key=lambda path: path.stat().st_mtime)
        more = "more of it, or the run_id in brackets" if are_told_apart else f"the run_id, of the newest {newest.stem}"
        raise ValueError(f"{name!r} could be any of {listed}: write {more}")
    makes = "python -m ablations.run STUDY --keep-weights keeps those that it trains"
    if not there:
        raise ValueError(
            f"there is no trained network under {results}: give --results, or train with weights kept ({makes})"
        )
    raise ValueError(f"there is no trained network {name!r} under {results}, but {_listed(there)}; {makes}")


def _name(path: Path) -> str:
    try:
        return read_card(path).name
    except ValueError:
        return "damaged"


def _listed(names: dict[Path, str]) -> str:
    return shortened([f"{name} ({path.stem})" for path, name in names.items()], MAX_LISTED)


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not a network written by --keep-weights, or is damaged ({reason(error)})")
