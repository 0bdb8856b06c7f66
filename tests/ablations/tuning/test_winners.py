"""Winners are trained beside the fixed settings as long as they are still valid."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from toys import NUM_1X1

from ablations import run
from ablations.tuning.winners import Winner, with_winners


def winner(name: str = "2x", **params: object) -> Winner:
    own = next(each for each in NUM_1X1.expand("smoke", 1) if each.variant == name)
    return Winner(3, 0.9, params, [1003], own.settings)


def test_winners_are_trained_beside_the_fixed_settings() -> None:
    study = with_winners(NUM_1X1, "smoke", {"2x": winner(**{"train.lr": 0.01}), "0x": winner("0x")})
    runs = {each.variant: each for each in study.expand("smoke", 1)}
    assert set(runs) == {"2x", "2x tuned", "0x"}  # of 0x its own setting has won
    assert (runs["2x"].train.lr, runs["2x tuned"].train.lr) == (0.005, 0.01)
    assert study.pairs == {"2x": "2x tuned", "0x": "0x"}


def test_a_winner_of_another_setting_is_refused_by_the_field() -> None:
    stale = winner(**{"train.lr": 0.01})
    stale.base["train.epochs"] = 7
    with pytest.raises(ValueError, match=r"2x has changed since it was tuned: train.epochs was 7, is 3"):
        with_winners(NUM_1X1, "smoke", {"2x": stale})


def test_winners_tuned_with_set_are_trained_with_the_same_set() -> None:
    changed = ["train.epochs=2"]
    own = next(each for each in NUM_1X1.expand("smoke", 1, ["2x"], changed))
    found = {"2x": Winner(3, 0.9, {"train.lr": 0.01}, [1003], own.settings)}
    study = with_winners(NUM_1X1, "smoke", found, changed)
    assert {each.train.epochs for each in study.expand("smoke", 1, None, changed)} == {2}
    with pytest.raises(ValueError, match=r"train.epochs was 2, is 3"):
        with_winners(NUM_1X1, "smoke", found)
    with pytest.raises(ValueError, match=r"train.lr: tuning has chosen this"):
        with_winners(NUM_1X1, "smoke", found, [*changed, "train.lr=0.005"])


def test_a_winner_is_refused_when_the_study_has_changed() -> None:
    ours = winner(**{"train.lr": 0.01})
    with pytest.raises(ValueError, match=r"'9x' was tuned but is no longer a variant of num_1x1"):
        with_winners(NUM_1X1, "smoke", {"2x": ours, "9x": ours})
    with pytest.raises(ValueError, match=r"model.num_1x1 was tuned, but num_1x1 now compares it"):
        with_winners(NUM_1X1, "smoke", {"2x": winner(**{"model.num_1x1": 3})})
    ours.base["model.gone"] = 1
    with pytest.raises(ValueError, match=r"model.gone was 1, is no more"):
        with_winners(NUM_1X1, "smoke", {"2x": ours})


def damaged(**fields: object) -> str:
    return json.dumps({"variants": {"2x": {**asdict(winner()), **fields}}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no"),
        ("{", "is damaged"),
        ('{"variants": {"2x": {"a": 1}}}', "is damaged"),
        (damaged(params={"lr": 0.1}), "is damaged.*unknown field of a run 'lr'"),
        (damaged(params={"train.lr": "high"}), "is damaged.*train.lr='high' must be float"),
        (damaged(params=[1]), "is damaged"),
        (damaged(base=None), "is damaged"),
        (damaged(seeds="1000"), "is damaged"),
    ],
)
def test_tuned_without_winners_is_one_line(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "num_1x1-tuning" / "smoke" / "tuned.json"
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=said):
        run.main(["num_1x1", "--protocol", "smoke", "--tuned", "--results", str(tmp_path)])
