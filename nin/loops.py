"""The two training loops that `nin.bench` compares, and a profile of ours.

The textbook's loop is that of Dive into Deep Learning (d2l.ai, its PyTorch notebooks on convolutional networks), written anew:
torchvision makes each image in loader processes, tensors are contiguous float32, and every step waits for its loss.
Ours is `nin.train.train` as it is.
"""

import multiprocessing
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, Dataset

from nin.data import ImageData, Split, load
from nin.fetch import DEBIAN_FOLDER, data_root
from nin.machine import seconds_between, synchronize, timestamp
from nin.model import build_model
from nin.roofline import Machine, measure_machine
from nin.spec import DataSpec
from nin.train import train

if TYPE_CHECKING:
    from nin.settings import Setting

TEST_SHARE = 6  # one test image for six training images, as Fashion-MNIST has them
MIN_STEPS = 2  # training steps of an epoch that is timed
PHASES = ("data", "forward", "backward", "optimiser", "logging", "evaluation")


@dataclass(frozen=True)
class Pace:
    """Duration of a loop: `seconds` from end to end, `step_seconds` without evaluation (and, in the textbook's, loading)."""

    images: int
    seconds: float
    step_seconds: float

    @property
    def images_per_sec(self) -> float:
        """Speed from end to end: loading, training and evaluating."""
        return self.images / self.seconds

    @property
    def step_images_per_sec(self) -> float:
        """Speed of training alone."""
        return self.images / self.step_seconds


def has_fashion_mnist() -> bool:
    """Return whether Fashion-MNIST is on this machine; otherwise random bytes, which train as fast, replace it."""
    return any(
        any(folder.glob("train-images-idx3-ubyte*")) for folder in (data_root() / "FashionMNIST/raw", DEBIAN_FOLDER)
    )


@lru_cache(maxsize=1)
def images(spec: DataSpec, device: str) -> ImageData:
    """Return Fashion-MNIST, or random bytes and labels of its shape, on the device, without validation images."""
    spec = replace(spec, val_examples=0, train_examples=0, test_examples=0)
    if spec.name != "fashion-mnist" or has_fashion_mnist():
        return load(spec, device=device)
    generator = torch.Generator().manual_seed(0)

    def split(num_images: int) -> Split:
        return Split(
            torch.randint(256, (num_images, 1, 28, 28), dtype=torch.uint8, generator=generator),
            torch.randint(10, (num_images,), generator=generator),
        )

    train_split, test_split = split(60_000), split(10_000)
    classes = tuple(str(k) for k in range(10))
    mean, std = torch.tensor([0.5]), torch.tensor([0.29])
    return ImageData(spec, classes, train_split, test_split, test_split, mean, std, checksum="").to(device)


def part_of(data: ImageData, num_images: int) -> ImageData:
    """Return the first `num_images` training images, and a sixth as many to evaluate on."""
    return data.first(num_images, max(1, num_images // TEST_SHARE))


class Loop:
    """A network that trains, an epoch of any size at a time."""

    setting: "Setting"
    data: ImageData

    def epoch(self, num_images: int) -> Pace:
        """Train on `num_images` (at most all), then evaluate on a sixth as many; return the pace."""
        raise NotImplementedError

    def images_for(self, seconds: float) -> int:
        """Return the number of images that take about that long: whole batches, MIN_STEPS to an epoch. Warms the loop up."""
        batch_size = self.setting.train.batch_size
        self.epoch(batch_size)
        rate = self.epoch(batch_size).images_per_sec
        most = len(self.data.train.labels) // batch_size
        return batch_size * min(max(MIN_STEPS, round(rate * seconds / batch_size)), most)


class OurLoop(Loop):
    """The loop of `nin.train.train`, one epoch at a time with one evaluation at its end, on data on the device."""

    def __init__(self, setting: "Setting", device: str, threads: int, compiled: bool = False) -> None:
        torch.set_num_threads(threads)
        self.setting = setting
        self.device = torch.device(device)
        self.data = images(setting.data, device)
        self.spec = replace(setting.train, epochs=1, evals_per_epoch=1, examples=0, eval_every=0)
        self.network = build_model(setting.model, self.data.in_shape, self.data.num_classes)
        if compiled:
            self.network.compile()

    def epoch(self, num_images: int) -> Pace:
        """Train for one epoch (`Loop.epoch`)."""
        data = part_of(self.data, num_images)
        synchronize(self.device)
        start = time.perf_counter()
        history = train(self.network, data, self.spec)
        synchronize(self.device)
        last = history.curve[-1]
        return Pace(last.examples, time.perf_counter() - start, last.seconds)

    def phases(self, num_images: int) -> dict[str, float]:
        """Return an epoch's seconds by PHASES; on a GPU from events, so that concurrent work of the host is not counted."""
        watch = _Stopwatch(self.device)
        part = part_of(self.data, num_images)
        data = _WatchedData(**{f.name: getattr(part, f.name) for f in fields(ImageData)})
        object.__setattr__(data, "watch", watch)
        hooks = [
            self.network.register_forward_pre_hook(lambda module, _: watch.switch("forward", module.training)),
            self.network.register_forward_hook(lambda module, *_: watch.switch("backward", module.training)),
            register_optimizer_step_pre_hook(lambda *_: watch.switch("optimiser")),
            register_optimizer_step_post_hook(lambda *_: watch.switch("logging")),
        ]
        try:
            watch.switch("logging")
            train(self.network, data, self.spec)
            return watch.seconds()
        finally:
            for hook in hooks:
                hook.remove()


class TextbookLoop(Loop):
    """The textbook's loop, with its counting of examples per second and one evaluation at the end of an epoch.

    Unlike the textbook's, loader processes are kept from epoch to epoch: starting them is a small part of an epoch of 60,000
    images, but would be a large part of the short epochs timed here.
    """

    def __init__(self, setting: "Setting", device: str, threads: int, num_workers: int) -> None:
        torch.set_num_threads(threads)
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more processes than cores are intended
        self.setting, self.num_workers = setting, num_workers
        self.device = torch.device(device)
        self.data = images(setting.data, "cpu")
        self.network = build_model(setting.model, self.data.in_shape, self.data.num_classes).to(self.device)
        self.loaders: dict[int, tuple[DataLoader[tuple[Tensor, int]], DataLoader[tuple[Tensor, int]]]] = {}

    def epoch(self, num_images: int) -> Pace:
        """Train for one epoch (`Loop.epoch`)."""
        if num_images not in self.loaders:
            data = part_of(self.data, num_images)
            self.loaders = {num_images: (self._loader(data.train, shuffle=True), self._loader(data.val, shuffle=False))}
            for loader in self.loaders[num_images]:
                next(iter(loader))  # starts its processes
        train_loader, test_loader = self.loaders[num_images]
        optimizer = torch.optim.SGD(self.network.parameters(), lr=self.setting.train.lr)
        start, step_seconds, examples, total_loss, total_correct = time.perf_counter(), 0.0, 0, 0.0, 0
        self.network.train()
        for x_NCHW, labels_N in train_loader:
            step_start = time.perf_counter()
            optimizer.zero_grad()
            x_NCHW, labels_N = x_NCHW.to(self.device), labels_N.to(self.device)
            logits_NK = self.network(x_NCHW)
            loss = F.cross_entropy(logits_NK, labels_N)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():  # read at every step, which waits for the device
                total_loss += loss.item() * len(labels_N)
                total_correct += int((logits_NK.argmax(dim=1) == labels_N).sum().item())
            examples += len(labels_N)
            step_seconds += time.perf_counter() - step_start
        self.network.eval()
        with torch.no_grad():
            for x_NCHW, labels_N in test_loader:
                predictions_N = self.network(x_NCHW.to(self.device)).argmax(dim=1)
                total_correct += int((predictions_N == labels_N.to(self.device)).sum().item())
        return Pace(examples, time.perf_counter() - start, step_seconds)

    def _loader(self, split: Split, *, shuffle: bool) -> DataLoader[tuple[Tensor, int]]:
        forked = self.num_workers > 0 and "fork" in multiprocessing.get_all_start_methods()
        return DataLoader(
            _PilImages(split, self.setting.data.image_size),
            self.setting.train.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            multiprocessing_context="fork" if forked else None,  # as in a notebook on Linux
        )


class _PilImages(Dataset[tuple[Tensor, int]]):
    """Images made one at a time by PIL, as torchvision's data sets make them."""

    def __init__(self, split: Split, image_size: int) -> None:
        from nin._torchvision import transforms

        resize = [transforms.Resize(image_size)] if image_size else []
        self.transform = transforms.Compose([*resize, transforms.ToTensor()])
        self.images_NHW, self.labels_N = split.images[:, 0], split.labels

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images_NHW[index].numpy())), int(self.labels_N[index])


class _Stopwatch:
    """Measure time by phase; on an accelerator by events, for which the host does not wait."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[tuple[str, float | torch.Event]] = []

    def switch(self, phase: str, condition: bool = True) -> None:
        """Count time for `phase` from now on if the condition holds."""
        if condition:
            self.marks.append((phase, timestamp(self.device)))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each of PHASES so far."""
        self.switch("end")
        synchronize(self.device)
        total = dict.fromkeys(PHASES, 0.0)
        for (phase, start), (_, stop) in pairwise(self.marks):
            total[phase] += seconds_between(start, stop)
        return total


class _WatchedData(ImageData):
    """Data that tells a stopwatch when a batch is being made, and when an evaluation begins and ends."""

    watch: _Stopwatch

    def epoch(
        self, batch_size: int, seed: int, epoch: int, *, channels_last: bool = False, first_step: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the epoch's batches; count the time to make them as "data"."""
        self.watch.switch("data")
        for batch in super().epoch(batch_size, seed, epoch, channels_last=channels_last, first_step=first_step):
            self.watch.switch("logging")
            yield batch
            self.watch.switch("data")
        self.watch.switch("logging")

    def batches(self, split: Split, batch_size: int, *, channels_last: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the split's batches; count the time as "evaluation"."""
        self.watch.switch("evaluation")
        yield from super().batches(split, batch_size, channels_last=channels_last)
        self.watch.switch("logging")


class Limits:
    """Measure the device's peak rates with that many threads."""

    def __init__(self, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device(device)

    def machine(self) -> Machine:
        """Measure the machine now."""
        return measure_machine(self.device)
