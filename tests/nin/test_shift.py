"""Shifted test images: where their pixels go, and that a network's score on them is its own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from trained_networks import keep, make

from nin import shift
from nin.data import load
from nin.shift import shifted, shifted_score
from nin.spec import DataSpec, TrainSpec

DATA = load(DataSpec(name="synthetic", train_examples=64, val_examples=64, test_examples=64))


def test_each_image_moves_by_so_many_pixels_and_black_comes_in() -> None:
    images = torch.zeros(8, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 200
    moved = shifted(images, 3)
    places = [tuple(map(int, image[0].nonzero()[0])) for image in moved]
    assert sorted(places) == sorted(
        (4 + 3 * dy, 4 + 3 * dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)
    )
    assert int(moved.sum()) == 8 * 200


def test_no_shift_changes_nothing() -> None:
    assert torch.equal(shifted(DATA.test.images, 0), DATA.test.images)


class Brightness(nn.Module):
    """Logits that know only how bright an image is, wherever: invariant as long as nothing leaves the image."""

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        total = x_NCHW.sum(dim=(1, 2, 3))
        return torch.stack([total, -total], dim=1)


def test_a_network_that_sums_all_pixels_is_invariant() -> None:
    images = torch.zeros(16, 1, 12, 12, dtype=torch.uint8)
    images[::2, :, 5:7, 5:7] = 255
    test = replace(DATA.test, images=images, labels=torch.arange(16) % 2)
    data = replace(DATA, spec=replace(DATA.spec, normalize=False), test=test, train=test, val=test)
    spec = TrainSpec(precision="float32", channels_last=False)
    scores = {shifted_score(Brightness(), data, spec, pixels).accuracy for pixels in range(4)}
    assert len(scores) == 1


@pytest.mark.parametrize("most", ["0", "-1", "many"])
def test_the_command_refuses_shifts_that_are_none(most: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        shift.main(["2x:0", "--most", most])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_shifts_that_leave_nothing_of_an_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--most 28: must be less than the 28 pixels"):
        shift.main([str(keep(make(), tmp_path)), "--most", "28"])


def test_a_diverged_network_has_no_accuracy(tmp_path: Path) -> None:
    trained = make()
    with torch.no_grad():
        next(trained.network.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="its logits are not finite"):
        shift.main([str(keep(trained, tmp_path))])


def test_the_command_prints_accuracy_by_shift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shift.main([str(keep(make(), tmp_path)), "--most", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["0", "1", "2"]
