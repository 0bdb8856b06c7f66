"""The section of a report on accuracy at the length of the verdicts: verdicts, how they were reached, and details."""

import math
from collections.abc import Collection, Sequence

import pandas as pd

from ablations.analysis import sequential, stats
from ablations.analysis.summary import each_row
from ablations.reporting.formatting import (
    accuracy_text,
    detectable_text,
    difference_text,
    ends_text,
    figure_line,
    known_text,
    listed,
    markdown_table,
    marked,
    number_text,
    p_is,
    p_text,
    range_text,
    seeds_needed_text,
)
from ablations.reporting.verdicts import verdict_text
from ablations.study import DECLARED, Study
from nin.text import counted

BRACKETS = {  # after verdicts, in words of `verdict_text`
    "(Holm)": "the interval excludes 0, but p, corrected for the number of comparisons, is above 0.05.",
    "(looks)": "the interval excludes 0, but the tests at the declared numbers of seeds have not decided.",
}


def accuracy_sections(
    study: Study,
    table: pd.DataFrame,
    figures: Sequence[tuple[str, str]],
    looks: Sequence[int] = (),
    num_before: int = 0,
) -> list[str]:
    """Accuracies, differences and verdicts at the length of the verdicts; then what few readers need at first sight.

    looks       numbers of seeds at which comparisons were decided; empty where all runs were asked for at once
    num_before  runs that were there before the looks were declared
    """
    return [
        "## Accuracy on the test set",
        _accuracy_table(table),
        _accuracy_notes(study, table, looks, num_before),
        figure_line("accuracy_against_params", figures),
        figure_line("accuracy_against_flops", figures),
        "## Each comparison in detail",
        *_detail(table, bool(looks)),
    ]


def _accuracy_table(table: pd.DataFrame) -> str:
    rows = [
        {
            "variant": row.variant,
            "n": row.n,
            "parameters": f"{row.params:,}",
            "test accuracy, %": accuracy_text(row),
            "difference, points": "" if row.role == "baseline" else difference_text(row),
            "seeds compared": str(row.compared_seeds or ""),
            "p": marked(p_text(row.p_holm if row.role == "confirmatory" else row.p), row.role),
            "verdict": "baseline" if row.role == "baseline" else verdict_text(row),
        }
        for row in each_row(table)
    ]
    return markdown_table(_filled(rows))


def _filled(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The rows of a table without columns that are empty in every row."""
    return [{name: row[name] for name in row if any(each[name] for each in rows)} for row in rows]


def _accuracy_notes(study: Study, table: pd.DataFrame, looks: Sequence[int], num_before: int) -> str:
    confirmatory, others = (
        table[table["role"] == "confirmatory"],
        table[~table["role"].isin(DECLARED)],
    )
    margin = 100 * study.margin
    equivalent = f"*Equivalent*: two one-sided tests place the difference within {margin:g} points."
    lines = [_looks_note(table, looks, num_before, equivalent) if looks else _test_note(table, equivalent)]
    wide = table[
        (table["verdict"] == stats.EQUIVALENT)
        & ((table["difference_low"] < -margin) | (table["difference_high"] > margin))
    ]
    if len(wide):
        lines.append(
            f"The 95 % interval of {listed(wide['variant'])} extends beyond the margin, although equivalence is shown: two one-sided "
            "tests at 5 % go with an interval of 90 %."
        )
    undecided = confirmatory[confirmatory["verdict"] == stats.INCONCLUSIVE]
    nearly = undecided[(undecided["difference_low"] > -margin) & (undecided["difference_high"] < margin)]
    if len(nearly):
        known = (f" ({p_is(row.p_equivalent)})" if row.p_equivalent >= 0 else "" for row in each_row(nearly))
        each = listed(f"{name}{p}" for name, p in zip(nearly["variant"], known, strict=True))
        lines.append(
            f"The 95 % interval lies within the margin, but after correction equivalence is not shown: {each}."
        )
    if len(others):
        lines.append(
            "Square brackets mark exploratory results, of variants that the study did not declare as its comparisons. They are "
            "compared by Welch's test, and their p is not corrected: read them as hints."
        )
    if not table["mean_is_reliable"].all():
        lines.append(
            "*Unreliable*: some runs did not learn. Where a tenth of runs collapse, Student's interval of the mean covers 27, 41 and "
            "65 % at 3, 5 and 10 runs, not 95 %. *Runs that failed to learn* gives the share that learned and their mean."
        )
    detectable = undecided["detectable"].dropna()
    if len(detectable):
        lines.append(
            "Minimum detectable difference of inconclusive comparisons at 80 % power, given the spread between seeds: "
            f"{detectable_text(detectable, 2)}. There may be a smaller difference that these runs could not find."
        )
    return "\n\n".join(lines)


def _test_note(table: pd.DataFrame, equivalent: str) -> str:
    """Say how comparisons are decided where all runs were asked for at once; `equivalent` is what that verdict means."""
    several = (table["role"] == "confirmatory").sum() > 1
    correction = (
        " p is corrected for the number of comparisons by Holm's method; the interval is not." if several else ""
    )
    return (
        f"Intervals are 95 %. A *difference* is a variant's mean test accuracy minus the baseline's{_shared_seeds(table)}. "
        f"{_test_sentence(table)}{correction} {equivalent} *Inconclusive*: neither a difference nor equivalence is "
        f"shown.{bracket_note(table)}"
    )


def _looks_note(table: pd.DataFrame, looks: Sequence[int], num_before: int, equivalent: str) -> str:
    """Say how comparisons were decided that had seeds added in looks; `equivalent` is what that verdict means.

    num_before  runs that were there before the looks were declared
    """
    meanings = {
        stats.EQUIVALENT: equivalent,
        sequential.FUTILE: f"*Futile*: not decided, and more seeds, up to the last look at {looks[-1]}, would hardly decide it.",
        stats.INCONCLUSIVE: "*Inconclusive*: neither a difference nor equivalence is shown at the last look.",
        sequential.PENDING: "*Pending*: the next look waits for seeds.",
    }
    verdicts = set(table["verdict"][table["role"] == "confirmatory"])
    meaning = "".join(f" {meaning}" for verdict, meaning in meanings.items() if verdict in verdicts)
    when = (
        f"when {counted(num_before, 'run')} {'was' if num_before == 1 else 'were'} there"
        if num_before
        else "beforehand"
    )
    return (
        f"Seeds are added to declared comparisons while these are not decided, in looks at {listed(looks)} seeds that were declared "
        f"{when}. {_test_sentence(table)} Each look reads it at a stricter level, so that over all looks and comparisons together the "
        "chance of a false *better* or *worse* is about 5 %, and that of a false *equivalent* another 5 % (Lan and DeMets; Holm, "
        "Maurer and Bretz); there is no single p. A *difference* of a comparison that has stopped is the median-unbiased estimate "
        "after stopping, with a 95 % interval that allows for the looks. It uses only the *seeds compared*, those of the "
        "comparison's last look. Accuracies, and differences of other variants, use all *n* runs. So it may differ from the "
        "difference of the means. Intervals over seeds and test images together are not given for it."
        f"{meaning}{bracket_note(table)}"
    )


def _test_sentence(table: pd.DataFrame) -> str:
    """Name the test of the declared comparisons."""
    confirmatory = table[table["role"] == "confirmatory"]
    shared = "the order of images and the first weights of layers with the same place and shape"
    test = f"The test pairs runs of equal seed, which share {shared}"
    why = "since fewer than two seeds are shared, or the difference does not vary"
    is_welch = confirmatory["test"] == "welch"
    if len(confirmatory) and is_welch.all():
        return f"The test is Welch's, of all runs, {why}."
    instead = f" Of {listed(confirmatory['variant'][is_welch])} it is Welch's, {why}." if is_welch.any() else ""
    return f"{test}{_shared_variances(confirmatory[~is_welch])}.{instead}"


def bracket_note(table: pd.DataFrame) -> str:
    """Explain the verdicts whose interval excludes 0 but whose corrected p decides nothing, where there are any."""
    verdicts = " ".join(verdict_text(row) for row in each_row(table))
    return "".join(f" *{mark}*: {why}" for mark, why in BRACKETS.items() if mark in verdicts)


def _shared_seeds(table: pd.DataFrame) -> str:
    """The runs that a difference is of, where their numbers differ."""
    is_paired = table["test"].isin(["moderated", "paired"])
    if not is_paired.any() or table["n"].nunique() == 1:
        return ""
    of_all_runs = ", but over all runs where the test is Welch's" if (table["test"] == "welch").any() else ""
    return f", over the seeds that both have{of_all_runs}"


def _shared_variances(confirmatory: pd.DataFrame) -> str:
    moderated = confirmatory["test"] == "moderated"
    if not moderated.any():
        return ""
    alone = "" if moderated.all() else f" (but for {listed(confirmatory['variant'][~moderated])})"
    return f", and estimates each variance together with those of the other comparisons{alone}"


def _detail(table: pd.DataFrame, has_looks: bool) -> list[str]:
    """A table of what few readers need at first sight, and notes on it; `has_looks` says that seeds were added in looks."""
    rows: list[dict[str, object]] = []
    for row in each_row(table):
        needs_seeds = (
            row.role == "confirmatory" and row.verdict == stats.INCONCLUSIVE and not math.isnan(row.seeds_if_seen)
        )
        rows.append(
            {
                "variant": row.variant,
                "role": row.role,
                "GFLOP": f"{row.gflops:.4f}",
                "memory, MB": known_text(row.peak_memory_mb, number_text),
                "interval over seeds and test images": ""
                if math.isnan(row.difference_both_low)
                else ends_text(row.difference_both_low, row.difference_both_high),
                "P(better)": known_text(row.prob_better, "{:.2f}".format) if row.n > 1 else "",
                "Welch's p": marked(known_text(row.p_welch, p_text), row.role),
                "Welch's p, equivalence": marked(known_text(row.p_welch_equivalent, p_text), row.role),
                "Dunnett's p": marked(known_text(row.p_dunnett, p_text), row.role),
                "sign-flip p": marked(known_text(row.p_sign_flip, p_text), row.role),
                "seeds to decide": f"{seeds_needed_text(row.seeds_if_seen)}; {seeds_needed_text(row.seeds_if_margin)}"
                if needs_seeds
                else "",
            }
        )
    filled = _filled(rows)
    return [markdown_table(filled), _detail_notes(table, filled[0], has_looks)]


def _detail_notes(table: pd.DataFrame, columns: Collection[str], has_looks: bool) -> str:
    """Explain these columns of the table of details, in a list."""
    lines = ["*GFLOP* is the cost of one image's forward pass, two FLOPs per multiply-accumulate."]
    if "memory, MB" in columns:
        lines.append(
            "*Memory* is the peak of two training steps: weights, gradients, the optimiser's state, activations."
        )
    if "interval over seeds and test images" in columns:
        both = table[table["difference_both_low"].notna()]
        parts = both["error_images"] ** 2 / (both["error_seeds"] ** 2 + both["error_images"] ** 2)
        share = range_text(100 * parts, "{:.0f}".format)
        lines.append(
            "*Interval over seeds and test images*: the difference to be expected with other seeds and another test set (crossed "
            f"random effects, Owen 2007). The choice of test images contributes {share} % of its variance. Verdicts hold for "
            "other seeds on these test images."
        )
    if "P(better)" in columns:
        lines.append("*P(better)*: the estimated probability that a run of the variant beats one of the baseline.")
    if "Welch's p" in columns:
        corrected = "Welch's and the sign-flip p are" if "sign-flip p" in columns else "Welch's p is"
        dunnett = (
            " Dunnett's is corrected by construction and assumes equal variances." if "Dunnett's p" in columns else ""
        )
        has_others = not table["role"].isin(DECLARED).all()
        brackets = " Those in square brackets are not corrected." if has_others else ""
        after_looks = " They are of all runs, and do not allow for the looks." if has_looks else ""
        lines.append(
            f"The other *p-values* check the declared comparisons by other tests. {corrected} corrected by Holm's method."
            f"{dunnett}{brackets}{after_looks}"
        )
    if "seeds to decide" in columns:
        lines.append(
            "*Seeds to decide*: the total number of seeds at which an inconclusive comparison gets a verdict with 80 % power. The "
            "first number holds if the true difference is the one seen, the second if it equals the margin."
        )
    return "\n".join(f"- {line}" for line in lines)
