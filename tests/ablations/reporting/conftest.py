"""Reports to test."""

import pytest
from builders import filled, sized

from ablations.catalog import load_study
from ablations.records import Store
from ablations.reporting.files import write_report

NUM_1X1 = load_study("num_1x1")


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A report of five seeds without figures, which take most of its time."""
    store = filled(tmp_path_factory.mktemp("results"), sized, seeds=5)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ablations.reporting.figures.FIGURES", {})
        write_report(NUM_1X1, "smoke", store)
    return store
