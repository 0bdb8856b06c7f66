"""A training that was killed goes on from its checkpoint, to the end that it would have come to."""

import errno
import inspect
import math
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nin import checkpoint
from nin.checkpoint import last_point
from nin.data import ImageData, load
from nin.history import Evaluation, History
from nin.model import Network, build_model
from nin.pooling import GlobalPool
from nin.spec import DataSpec, ModelSpec, TrainSpec
from nin.train import train

MODEL = ModelSpec(layout="small", width=1 / 12, init="kaiming", dropout=0.3, class_block="wide")
SPEC = TrainSpec(epochs=2, batch_size=32, lr=0.02, momentum=0.9, evals_per_epoch=3)


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def data() -> ImageData:
    spec = DataSpec(name="synthetic", train_examples=200, val_examples=100, test_examples=100, augment="crop-flip")
    return load(spec)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of the time it costs."""
    monkeypatch.setattr(checkpoint, "SHARE", math.inf)


def trained(
    data: ImageData, spec: TrainSpec, path: Path | None = None, killed_at: int = 0, seed: int = 0
) -> tuple[Network, History, list[Evaluation]]:
    """The network, its history, and what was told of it; killed when so many evaluations were told."""
    network = build_model(MODEL, data.in_shape, data.num_classes, seed=seed)
    heard: list[Evaluation] = []

    def hear(point: Evaluation) -> None:
        heard.append(point)
        if len(heard) == killed_at:
            raise Killed

    return network, train(network, data, spec, hear, seed=seed, checkpoint=path), heard


def without_times(curve: list[Evaluation]) -> list[Evaluation]:
    return [replace(point, seconds=0.0) for point in curve]


def assert_same(first: Network, second: Network) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.usefixtures("always")
def test_numbers_of_numpy_do_not_spoil_a_checkpoint(data: ImageData, tmp_path: Path) -> None:
    spec = replace(SPEC, lr=np.float64(0.02), batch_size=np.int64(32))
    path = tmp_path / "run.pt"
    with pytest.raises(Killed):
        trained(data, spec, path, killed_at=3, seed=np.int64(1))
    with warnings.catch_warnings(action="error"):
        network, history, _ = trained(data, spec, path, seed=1)
    wanted, _, _ = trained(data, SPEC, seed=1)
    assert len(history.curve) == 6
    assert_same(network, wanted)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("killed_at", [1, 2, 3, 4, 5, 6])
def test_a_killed_training_comes_to_the_same_end(data: ImageData, tmp_path: Path, killed_at: int) -> None:
    path = tmp_path / "run.pt"
    undisturbed, history, _ = trained(data, SPEC)
    with pytest.raises(Killed):
        trained(data, SPEC, path, killed_at)
    assert path.exists() == (killed_at > 1)  # a point is told before it is kept
    network, resumed, heard = trained(data, SPEC, path)
    assert without_times(resumed.curve) == without_times(history.curve)
    assert heard == resumed.curve
    assert_same(network, undisturbed)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["none", "cosine", "one-cycle"])
@pytest.mark.parametrize(
    "precision", ["float32", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bf16", "float16"))]
)  # slow where it is emulated
def test_every_optimizer_and_schedule_resumes(
    data: ImageData, tmp_path: Path, optimizer: str, schedule: str, precision: str
) -> None:
    spec = replace(SPEC, optimizer=optimizer, schedule=schedule, precision=precision, lr=0.003, last_lr_factor=0.1)
    undisturbed = trained(data, spec)[0]
    with pytest.raises(Killed):
        trained(data, spec, tmp_path / "run.pt", killed_at=5)
    assert_same(trained(data, spec, tmp_path / "run.pt")[0], undisturbed)


@pytest.mark.usefixtures("always")
def test_a_training_killed_twice_resumes_twice_and_trains_nothing_again(data: ImageData, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    for killed_at in (3, 5):
        with pytest.raises(Killed):
            trained(data, SPEC, path, killed_at)
    network, history, _ = trained(data, SPEC, path)
    assert_same(network, trained(data, SPEC)[0])
    assert history.seconds_before == history.curve[3].seconds  # four were kept
    again = trained(data, SPEC, path)[1]  # killed after the last step, all there is to do is to say so
    assert again.curve == history.curve
    assert again.seconds_before == history.curve[-1].seconds


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    match how:
        case "cut":
            del content[len(content) // 2 :]
        case "a flipped bit":  # in a weight, where torch's reader would not notice
            weight = next(iter(torch.load(path, weights_only=True)["model"].values()))
            content[content.index(weight.numpy().tobytes()[:16]) + 8] ^= 1
        case "empty":
            content.clear()
        case "a pickle of something else":
            torch.save({"belongs_to": Path("x")}, path)
            return
        case "without its random streams":
            torch.save({**torch.load(path, weights_only=True), "rng": torch.zeros(3, dtype=torch.uint8)}, path)
            return
        case "compressed":  # down to a thousandth, if somebody wants this machine to run out of memory
            with zipfile.ZipFile(path) as archive:
                entries = {entry: archive.read(entry) for entry in archive.namelist()}
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for entry, inside in entries.items():
                    archive.writestr(entry, inside)
            return
    path.write_bytes(content)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    "how",
    ["cut", "a flipped bit", "empty", "a pickle of something else", "without its random streams", "compressed"],
)
def test_a_damaged_checkpoint_is_a_warning_and_not_used(data: ImageData, tmp_path: Path, how: str) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(Killed):
        trained(data, SPEC, path, killed_at=4)
    damaged(path, how)
    with pytest.warns(UserWarning, match=r"run\.pt is not used .*: training from the start"):
        network = trained(data, SPEC, path)[0]
    assert_same(network, trained(data, SPEC)[0])


@pytest.mark.usefixtures("always")
def test_a_checkpoint_for_which_memory_is_lacking_stays(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(Killed):
        trained(data, SPEC, path, killed_at=4)
    content = path.read_bytes()

    def lacking(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr("torch.load", lacking)
        with pytest.raises(torch.OutOfMemoryError):
            trained(data, SPEC, path)
    assert path.read_bytes() == content


@pytest.mark.usefixtures("always")
def test_a_checkpoint_says_how_far_its_training_has_come(data: ImageData, tmp_path: Path) -> None:
    assert last_point(tmp_path / "run.pt") is None
    with pytest.raises(Killed):
        trained(data, SPEC, tmp_path / "run.pt", killed_at=4)
    point = last_point(tmp_path / "run.pt")
    assert point is not None
    assert point.examples == trained(data, SPEC)[1].curve[2].examples  # killed while the fourth was told
    damaged(tmp_path / "run.pt", "cut")
    assert last_point(tmp_path / "run.pt") is None


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("spec", "seed"), [(replace(SPEC, lr=0.01), 0), (SPEC, 1), (replace(SPEC, epochs=3), 0)], ids=["lr", "seed", "more"]
)
def test_a_checkpoint_of_another_training_is_not_used(
    data: ImageData, tmp_path: Path, spec: TrainSpec, seed: int
) -> None:
    with pytest.raises(Killed):
        trained(data, SPEC, tmp_path / "run.pt", killed_at=4)
    with pytest.warns(UserWarning, match="it is of another training: other (lr|network, seed|epochs)"):
        network = trained(data, spec, tmp_path / "run.pt", seed=seed)[0]
    assert_same(network, trained(data, spec, seed=seed)[0])


@pytest.mark.usefixtures("always")
def test_a_checkpoint_of_other_layers_weights_or_images_is_not_used(data: ImageData, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    trained(data, SPEC, path)
    pooled = build_model(replace(MODEL, pooling="max"), data.in_shape, data.num_classes)
    with pytest.warns(UserWarning, match="it is of another training: other network"):
        train(pooled, data, SPEC, checkpoint=path)
    trained(data, SPEC, path := tmp_path / "other.pt")
    for network, images, others in (
        (build_model(MODEL, data.in_shape, data.num_classes, seed=7), data, "network"),
        (build_model(MODEL, data.in_shape, data.num_classes), data.first(200, 50), "data"),
    ):
        with pytest.warns(UserWarning, match=f"it is of another training: other {others}"):
            train(network, images, SPEC, checkpoint=path, pause_after=1)
        trained(data, SPEC, path := tmp_path / f"{others}.pt")


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("change", [{"augment": "none"}, {"normalize": False}, {"image_size": 32}])
def test_a_checkpoint_of_other_data_settings_is_not_used(
    data: ImageData, tmp_path: Path, change: dict[str, object]
) -> None:
    trained(data, SPEC, path := tmp_path / "run.pt")
    other = replace(data, spec=replace(data.spec, **change))  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="it is of another training: other data settings"):
        trained(other, SPEC, path)


class Doubled(GlobalPool):
    def forward(self, x_NCHW: Tensor) -> Tensor:
        return 2 * x_NCHW.mean(dim=(2, 3))


@pytest.mark.usefixtures("always")
def test_a_checkpoint_of_changed_code_is_not_used(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    network = build_model(MODEL, data.in_shape, data.num_classes)
    assert isinstance(network.head, nn.Sequential)
    network.head[2] = Doubled((10, 3, 3))
    paused = train(network, data, SPEC, checkpoint=path, pause_after=200)
    again = train(network, data, SPEC, checkpoint=path, pause_after=200)
    assert again.curve == paused.curve
    assert again.seconds_before == paused.curve[-1].seconds
    monkeypatch.setattr(inspect, "getsource", lambda code: "return 3 * x_NCHW.mean(dim=(2, 3))")
    with pytest.warns(UserWarning, match="it is of another training: other code"):
        train(network, data, SPEC, checkpoint=path)


@pytest.mark.usefixtures("always")
def test_a_checkpoint_of_another_network_leaves_this_one_as_it_was(data: ImageData, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(Killed):
        trained(data, SPEC, path, killed_at=4)
    wider = replace(MODEL, num_1x1=3)
    network = build_model(wider, data.in_shape, data.num_classes)
    fresh = build_model(wider, data.in_shape, data.num_classes)
    with pytest.warns(UserWarning, match="is not used"):
        train(network, data, SPEC, checkpoint=path)
    train(fresh, data, SPEC)
    assert_same(network, fresh)


@pytest.mark.usefixtures("always")
def test_a_folder_that_cannot_be_written_to_is_a_warning(data: ImageData, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be written .*: training goes on"):
        network = trained(data, SPEC, tmp_path / "file" / "run.pt")[0]
    assert_same(network, trained(data, SPEC)[0])


@pytest.mark.usefixtures("always")
def test_a_full_disk_is_the_same_warning_for_every_run_and_evaluation(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = iter(range(100))

    def save(state: object, file: object) -> None:
        """What torch makes of it."""
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError(f"unexpected pos {next(positions)}")  # noqa: B904

    monkeypatch.setattr(torch, "save", save)
    said = []
    for seed in (0, 1):
        with pytest.warns(UserWarning, match="No space left on device") as warned:
            trained(data, SPEC, tmp_path / f"{seed}.pt", seed=seed)
        said += [str(warning.message) for warning in warned]
    assert len(said) > 2
    assert len(set(said)) == 1


def test_checkpoints_take_a_hundredth_of_the_time_at_most(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that only writing (1 s) and training (30 s per evaluation) move forward."""
    now, written_at = 0.0, []

    def write(self: checkpoint.Checkpoint, curve: list[Evaluation]) -> None:
        nonlocal now
        written_at.append(len(curve))
        now += 1.0

    def advance(point: Evaluation) -> None:
        nonlocal now
        now += 30.0

    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    monkeypatch.setattr(checkpoint.Checkpoint, "_save", write)
    network = build_model(MODEL, data.in_shape, data.num_classes)
    train(network, data, replace(SPEC, epochs=5), advance, checkpoint=tmp_path / "run.pt")
    # The first after 30 s, before its cost is known; then two seconds of writing are due after 200, three after 300.
    assert written_at == [1, 7, 10, 14]


def test_a_short_training_writes_none(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: 0.0)
    with warnings.catch_warnings(action="error"):
        trained(data, SPEC, tmp_path / "run.pt")
    assert not any(tmp_path.iterdir())
