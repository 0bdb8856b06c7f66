"""How training images are divided by seed, labels made noisy, and digits read: what a study of generalisation rests on."""

from dataclasses import replace

import pytest
import torch

from nin.data import load
from nin.spec import DataSpec

SYNTHETIC = DataSpec(name="synthetic", val_examples=200, test_examples=100)
BY_SEED = replace(SYNTHETIC, split="by-seed")


def test_only_a_division_by_seed_depends_on_the_seed() -> None:
    assert SYNTHETIC.for_seed(3) == SYNTHETIC
    assert BY_SEED.for_seed(3) != BY_SEED.for_seed(4)


def test_each_seed_draws_other_validation_images_and_all_have_the_same_test_images() -> None:
    one, other = load(BY_SEED.for_seed(0)), load(BY_SEED.for_seed(1))
    assert not torch.equal(one.val.images, other.val.images)
    assert torch.equal(one.test.images, other.test.images)
    assert torch.equal(load(BY_SEED.for_seed(0)).val.images, one.val.images)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_label_noise_draws_a_share_of_the_training_labels_anew_and_no_others(share: float) -> None:
    clean, noisy = load(SYNTHETIC), load(replace(SYNTHETIC, label_noise=share))
    assert torch.equal(noisy.train.images, clean.train.images)
    assert torch.equal(noisy.val.labels, clean.val.labels)
    assert torch.equal(noisy.test.labels, clean.test.labels)
    changed = (noisy.train.labels != clean.train.labels).double().mean()  # one in ten is drawn as it was
    assert float(changed) == pytest.approx(0.9 * share, abs=0.04)
    assert noisy.checksum != clean.checksum


def test_noise_and_part_are_those_of_the_division() -> None:
    """The same on each call, and others for another division."""
    spec = replace(SYNTHETIC, label_noise=0.5, train_fraction=0.5)
    first, again, other = load(spec), load(spec), load(replace(spec, split="other"))
    assert again.checksum == first.checksum
    assert torch.equal(again.train.labels, first.train.labels)
    assert not torch.equal(other.train.labels, first.train.labels)
    assert not torch.equal(other.train.images, first.train.images)


def test_a_part_of_the_images_takes_the_place_of_all() -> None:
    whole, half = load(SYNTHETIC), load(replace(SYNTHETIC, train_fraction=0.5))
    assert len(half.train.images) == len(whole.train.images)
    assert len(half.train.images.unique(dim=0)) == len(whole.train.images.unique(dim=0)) // 2


def test_without_noise_nothing_changes() -> None:
    assert load(replace(SYNTHETIC, label_noise=0.0)).checksum == load(SYNTHETIC).checksum


def test_an_image_that_is_seen_twice_has_one_label() -> None:
    data = load(replace(SYNTHETIC, label_noise=0.5, train_fraction=0.5))
    half = len(data.train.labels) // 2
    assert torch.equal(data.train.labels[:half], data.train.labels[half : 2 * half])


def test_scikit_learns_digits_are_1797_images_of_8x8_in_17_levels() -> None:
    data = load(DataSpec(name="digits", val_examples=0))
    images = torch.cat([data.train.images, data.test.images])
    assert (len(images), len(data.test.labels), data.in_shape) == (1797, 299, (1, 8, 8))
    assert len(images.unique()) == 17
    assert int(images.max()) == 255
    counts = torch.bincount(torch.cat([data.train.labels, data.test.labels]))
    assert counts.tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]  # as the data set's description has them
