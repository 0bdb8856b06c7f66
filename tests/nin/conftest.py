"""A data root that is not there yet, and the test images of the networks in trained_networks.py."""

from pathlib import Path

import pytest
from torch import Tensor
from trained_networks import DATA

from nin.data import load


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="session")
def images() -> Tensor:
    return load(DATA).test.images
