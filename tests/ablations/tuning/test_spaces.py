"""Tuning changes what surrounds a study's question, never what it is about."""

import pytest
from toys import NUM_1X1

from ablations.catalog import load_study
from ablations.tuning.spaces import NUISANCE, Choice, Range, space_of


def test_tuning_never_touches_what_a_study_is_about() -> None:
    for name in ("dropout", "init_lr", "num_1x1"):
        study = load_study(name)
        changed = {
            f"{part}.{key}"
            for variant in study.variants.values()
            for part in ("model", "data", "train")
            for key in getattr(variant, part)
        }
        assert not changed & space_of(study, study.expand("quick", 1)[0]).keys()
    (own,) = NUM_1X1.expand("quick", 1, ["2x"])
    assert {"model.dropout", "train.momentum", "train.lr"} <= space_of(NUM_1X1, own).keys()
    assert "model.dropout" not in space_of(load_study("dropout"), own)
    assert "train.lr" not in space_of(NUM_1X1, own, ["train.lr=0.1"])
    assert "train.momentum" not in space_of(NUM_1X1, own.with_settings({"train.optimizer": "adamw"}))


@pytest.mark.parametrize("protocol", NUISANCE)
def test_the_protocols_own_setting_lies_in_its_space(protocol: str) -> None:
    own = NUM_1X1.expand(protocol, 1, ["2x"])[0]
    for key, each in NUISANCE[protocol].items():
        part, _, field = key.partition(".")
        value = getattr(getattr(own, part), field)
        assert value in each.values if isinstance(each, Choice) else each.low <= value <= each.high


def test_a_best_value_at_the_edge_is_known() -> None:
    assert Range(0.001, 0.1, log=True).is_at_edge(0.0011)
    assert Range(0.001, 0.1, log=True).is_at_edge(0.099)
    assert not Range(0.001, 0.1, log=True).is_at_edge(0.01)
    assert not Range(0.0, 1.0).is_at_edge(0.0)  # beyond which there is nothing
