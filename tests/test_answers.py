"""The generated parts of README.md and results/reference/README.md: words from a table, numbers from published records."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ablations import answers
from ablations.answers import (
    NOT_RUN,
    Row,
    answer_row,
    answer_rows,
    answers_table,
    filled,
    protocol_table,
    reach,
    reference_answers,
    update_pages,
)
from ablations.catalog import load_study, study_names
from ablations.protocols import PROTOCOLS
from ablations.publish import main
from ablations.records import Store
from ablations.reporting.files import read_report
from ablations.reporting.plain import CLAIMS, Claim

ROOT = Path(__file__).parent.parent
REFERENCE = Path("results/reference")
README = (ROOT / "README.md").read_text()


def row_of(name: str, protocol: str = "quick") -> Row:
    study = load_study(name)
    return answer_row(study, protocol, read_report(study, protocol, Store(ROOT / REFERENCE, name, protocol)))


def line(row: Row) -> str:
    return answers_table([row], REFERENCE.as_posix()).splitlines()[-1]


CLAIMS_IN_SHORT = README.partition("## The claims so far")[2].partition("\n## ")[0].split("\n- **")[1:]
CLAIMS_IN_DETAIL = (ROOT / "docs/claims.md").read_text().split("\n## ")[1:]


def test_every_claim_has_a_short_and_a_long_answer() -> None:
    assert len(CLAIMS_IN_SHORT) == 6
    for short, detail in zip(CLAIMS_IN_SHORT, CLAIMS_IN_DETAIL, strict=True):
        assert short.replace("\n ", "").startswith(detail.splitlines()[0])


def test_controls_differ_from_two_by_what_the_report_says() -> None:
    """The table of controls in docs/claims.md, row by row: after 160,000 images and after 640,000."""
    report = (ROOT / REFERENCE / "num_1x1/standard/report.md").read_text().splitlines()
    after = {row.split()[1]: row.split("|")[3:5] for row in report if row.startswith("|") and row.count(", n = ") == 3}
    rows = re.findall(r"^  \| `(\S+@?\S+)` \| (.+) \| (.+) \|$", CLAIMS_IN_DETAIL[0], re.MULTILINE)
    assert {name for name, *_ in rows} == {name for name in after if load_study("num_1x1").role(name) == "control"}
    for name, *differences in rows:
        assert [cell.partition(",")[0].strip() for cell in after[name]] == differences


def test_the_claims_numbers_are_those_of_the_reports() -> None:
    """These texts are written by hand, so that they can name what the table does not; signs are the reader's."""
    for text in CLAIMS_IN_SHORT + CLAIMS_IN_DETAIL:
        claim = text.replace("\n ", "")
        numbers = re.findall(r"\d+\.\d+ to [+-]?\d+\.\d+|\d+\.\d\d+|\d{3},\d{3}|\d,\d{3},\d{3}", claim)
        named = re.findall(r"\]\((?:\.\./)?(results/reference/\w+/standard/report\.md)\)", claim)
        reports = "".join((ROOT / name).read_text() for name in named)
        assert numbers
        assert [number for number in numbers if number not in reports] == [], claim


@pytest.mark.parametrize("name", [pytest.param("num_1x1", marks=pytest.mark.slow), "dropout"])
def test_a_row_of_the_readme_follows_from_the_records(name: str) -> None:
    """A study whose answer is a comparison, and one whose answer is an interaction; all others below."""
    protocol = next(p for p in ("full", "standard", "quick") if f"reference/{name}/{p}/report.md" in README)
    assert line(row_of(name, protocol)) in README


@pytest.mark.slow
def test_both_pages_are_those_that_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / REFERENCE).symlink_to(ROOT / REFERENCE)
    page = (ROOT / REFERENCE / "README.md").read_text()
    (tmp_path / "README.md").write_text(README)
    monkeypatch.chdir(tmp_path)
    written: dict[Path, str] = {}
    monkeypatch.setattr(Path, "write_text", lambda path, text: written.setdefault(path, text))
    assert update_pages(Path("README.md"), REFERENCE) == [Path("README.md"), REFERENCE / "README.md"]
    assert written == {Path("README.md"): README, REFERENCE / "README.md": page}


def test_standard_is_said_to_be_missing_only_where_nothing_is_published_under_it() -> None:
    rows = [Row("Why?", "So.", folder="heads/quick")]
    assert reach(rows, {"quick", "standard"}) == "So far 1 answer rests on `quick`."
    assert reach(rows, {"quick"}).endswith(" No study under `standard` is published yet.")


def test_the_protocols_of_the_readme_are_those_there_are() -> None:
    assert protocol_table() in README
    assert all(f"`{name}`" in protocol_table() for name in PROTOCOLS)


def test_a_verdict_is_read_from_the_records_and_never_typed() -> None:
    row = row_of("precision")
    assert row == Row(
        question="Does training in bf16 change what is measured?",
        answer="NiN without 1x1 convolutions trained in bf16 is as accurate as in float32",
        effect=row.effect,
        n="30",
        length="40k",
        caveats="longer training; tuning each variant; fresh seeds",
        folder="precision/quick",
    )
    assert row.effect.endswith(" points")


@pytest.mark.slow
def test_a_protocol_with_too_few_seeds_does_not_answer_before_another(monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study("heads")
    reports = [
        (study, protocol, read_report(study, protocol, Store(ROOT / REFERENCE, "heads", protocol)))
        for protocol in ("standard", "quick")
    ]

    def answering() -> str:
        return next(row.folder for row in answer_rows(reports) if row.folder)

    assert answering() == "heads/standard"
    monkeypatch.setattr(answers, "FEWEST_SEEDS", 6)  # which neither has
    assert answering() == "heads/standard"
    few = reports[0][2].summary.variants.assign(n=2)
    thin = replace(reports[0][2], summary=replace(reports[0][2].summary, variants=few))
    monkeypatch.setattr(answers, "FEWEST_SEEDS", 3)
    reports[0] = (study, "standard", thin)
    assert answering() == "heads/quick"


def test_studies_that_contain_the_same_runs_say_so() -> None:
    reports = [
        (study, "digits", read_report(study, "digits", Store(ROOT / REFERENCE, study.name, "digits")))
        for study in map(load_study, ("num_1x1", "heads"))
    ]
    runs = [{(r.run_id, r.test_accuracy) for r in report.records} for _, _, report in reports]
    both = len(runs[0] & runs[1])
    assert both > 0
    text = reference_answers(reports)
    assert f"Of its {len(runs[0])} results it shares {both} with heads." in text
    assert f"Of its {len(runs[1])} results it shares {both} with num_1x1." in text
    assert "shares" not in reference_answers(reports[:1])


def test_a_study_without_words_of_its_own_has_a_row_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.reporting.plain.CLAIMS", {})
    assert row_of("precision").answer == "`bf16` is as accurate as `float32`"


@pytest.mark.slow
def test_a_difference_that_changes_with_training_is_in_the_headline() -> None:
    study = load_study("num_1x1")
    summaries = {
        protocol: read_report(study, protocol, Store(ROOT / REFERENCE, "num_1x1", protocol)).summary
        for protocol in ("quick", "standard")
    }
    words = answers.change_with_length(summaries["standard"], CLAIMS["num_1x1"])
    lengths = summaries["standard"].by_length.query("variant == '0x'").sort_values("length")["difference"]
    assert [float(number) for number in re.findall(r"[+-]\d+\.\d\d", words)] == lengths.round(2).tolist()
    assert words in README
    assert answers.change_with_length(summaries["quick"], CLAIMS["num_1x1"]) == ""


def test_studies_without_published_results_are_not_run_yet() -> None:
    rows = answer_rows([])
    assert len(rows) == len(study_names())
    assert {row.answer for row in rows} == {f"*{NOT_RUN}*"}
    assert answers.headline(rows, [], "") == "The main study, `num_1x1`, is not run yet."


@pytest.mark.parametrize("name", study_names())
def test_the_variant_that_answers_is_one_of_the_study(name: str) -> None:
    """A study added without words passes; words that name no variant do not."""
    claim = CLAIMS.get(name, Claim())
    assert claim.variant in ["", *load_study(name).variants]


def test_text_between_markers_is_replaced_and_nothing_else() -> None:
    begin, end = f"<!-- begin answers: generated by {answers.COMMAND} -->", "<!-- end answers -->"
    assert filled(f"a\n{begin}\nold\n{end}\nb", {"answers": "new \\1"}) == f"a\n{begin}\nnew \\1\n{end}\nb"
    with pytest.raises(ValueError, match="there is no line '<!-- begin answers"):
        filled("a page without markers", {"answers": ""})


def test_answers_are_of_all_studies_or_one_is_published() -> None:
    for words in ([], ["num_1x1", "--answers"]):
        with pytest.raises(ValueError, match=r"either name a study to publish .* or say --answers"):
            main(words)
