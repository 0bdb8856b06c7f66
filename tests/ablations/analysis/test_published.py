"""Numbers of others beside ours: a table of which each study shows its own rows."""

import pandas as pd
import pytest

from ablations.analysis.published import ANCHORS, anchors
from ablations.catalog import load_study, study_names

TABLE = pd.read_csv(ANCHORS, comment="#", keep_default_na=False)


def test_every_anchor_belongs_to_a_study_and_has_a_source() -> None:
    named = {name for names in TABLE["study"] for name in names.split()}
    assert named <= set(study_names())
    assert (TABLE["source"] != "").all()
    assert TABLE["value"].between(0, 100).all()


def test_numbers_that_were_copied_at_second_hand_are_marked() -> None:
    second_hand = TABLE[TABLE["source"].str.contains("1512.04150")]
    assert len(second_hand) == 8
    assert second_hand["note"].str.startswith("from a secondary copy").all()


def test_a_study_has_the_rows_of_its_own_question() -> None:
    counts = anchors(load_study("num_1x1")).query("group.str.startswith('1x1 convolutions after the first layer')")
    assert dict(zip(counts["setting"], counts["value"], strict=True)) == pytest.approx(
        {"0": 47.1, "1": 49.0, "3": 50.9, "5": 51.4, "7": 51.4, "9": 51.6}
    )
    assert len(anchors(load_study("precision"))) == 0
