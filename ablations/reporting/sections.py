"""The report in Markdown: its sections in their order, on networks or on memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ablations.analysis.summary import Summary, each_row
from ablations.reporting.caveats import caveats_text
from ablations.reporting.formatting import figure_line, markdown_table, number_text
from ablations.reporting.provenance import what_was_run
from ablations.reporting.section_accuracy import accuracy_sections
from ablations.reporting.section_comparisons import (
    contrast_sections,
    control_sections,
    factor_sections,
    length_sections,
    tuned_sections,
)
from ablations.reporting.section_published import anchor_sections, published_sections
from ablations.reporting.section_training import convergence_sections, failure_sections, generalization_sections
from ablations.runs import parse_overrides, settings_text
from ablations.study import MEMORY, Study

if TYPE_CHECKING:
    from ablations.reporting.files import Report

COUNTED = {"training": "weights, gradients and optimiser", "prediction": "weights"}
MEMORY_TEXT = {
    "training": (
        "Each line is fitted by least squares to the peak memory of two training steps, against the batch. The fixed part holds "
        "weights, gradients, the optimiser's state, copies of weights in a lower precision, and workspace. The part per image holds "
        "activations and what the backward pass keeps besides, such as the positions of maxima. The columns *by counting* are computed "
        "from shapes, in float32 for weights and in the training precision for activations, without copies and workspace."
    ),
    "prediction": (
        "Each line is fitted by least squares to the peak memory of predicting one batch, in evaluation mode without gradients. The "
        "fixed part holds weights, their copies in a lower precision, and workspace. The part per image holds the activations that are "
        "alive at the same time. The column *activations by counting* adds up all of them, of which prediction frees most before it "
        "makes the last. Where copying the weights takes the most memory, the peak stays flat until the batch is large enough for its "
        "activations to take more, and one line describes it badly."
    ),
}


def sections(
    study: Study,
    protocol: str,
    report: "Report",
    figures: Sequence[tuple[str, str]],
    overrides: Sequence[str],
    notes: Sequence[str],
) -> list[str]:
    """The report's parts in order, each a heading, a paragraph, a table or a figure; `figures` are names and captions.

    notes  lines on records that are left out
    """
    summary, records = report.summary, report.records
    facts = what_was_run(study, protocol, records, overrides, notes, summary.looks)
    opening = [f"# {study.name}: {study.question}", report.answer, report.grounds, caveats_text(report.caveats)]
    if study.answers in MEMORY:
        return [
            *opening,
            *_memory_sections(MEMORY[study.answers], summary, figures),
            "## What was run",
            facts,
        ]
    return [
        *opening,
        *(_result_sections(study, protocol, report, figures) if len(summary.variants) else []),
        "## Variants",
        *_variants(study, protocol, report),
        "## What was run",
        facts,
    ]


def _result_sections(study: Study, protocol: str, report: "Report", figures: Sequence[tuple[str, str]]) -> list[str]:
    """Sections on the results, in order; each function returns none where its data are missing."""
    summary = report.summary
    table = summary.variants
    has_label_noise = any(record.run.data.label_noise for record in report.records)
    return [
        *tuned_sections(study, summary.tuned),
        figure_line("difference_against_images", figures),
        figure_line("differences", figures),
        *length_sections(study, summary),
        *accuracy_sections(study, table, figures, summary.looks, summary.seen),
        *convergence_sections(summary, study.target(protocol), figures),
        *failure_sections(table, summary.length),
        *generalization_sections(table, figures, has_label_noise, report.passes),
        "## Size",
        figure_line("params_by_part", figures),
        figure_line("memory_against_params", figures),
        *control_sections(summary.controls),
        *contrast_sections(summary.contrasts),
        *factor_sections(study, summary.factors),
        *published_sections(study, summary.published, figures),
        *anchor_sections(summary.anchors),
    ]


def _memory_sections(task: str, summary: Summary, figures: Sequence[tuple[str, str]]) -> list[str]:
    if not len(summary.memory):
        return []
    rows = [
        {
            "network": row.network,
            "parameters": f"{row.params:,}",
            "batches": row.batches,
            "fixed, MB": number_text(row.fixed_mb),
            f"{COUNTED[task]} by counting, MB": number_text(row.state_mb),
            "per image, MB": number_text(row.per_image_mb),
            "activations by counting, MB": number_text(row.activations_mb),
            "R squared": f"{row.r_squared:.5f}",
        }
        for row in each_row(summary.memory)
    ]
    return [
        "## Memory against the batch",
        MEMORY_TEXT[task],
        markdown_table(rows),
        figure_line("memory_against_batch", figures),
    ]


def _variants(study: Study, protocol: str, report: "Report") -> list[str]:
    there = {record.run.variant for record in report.records}
    overridden = parse_overrides(report.overrides)
    rows: list[dict[str, object]] = []
    for name, variant in study.variants.items():
        if name in there:
            match = variant.match
            size = f"{match.field} such that {match.by} are those of {match.variant}" if match else ""
            settings = {key: value for key, value in variant.settings.items() if key not in overridden}
            changes = ", ".join(part for part in (settings_text(settings), size) if part)
            rows.append({"variant": name, "role": study.role(name), "settings": changes or "the protocol's own"})
    text = f"A variant is the network, data and training of protocol `{protocol}` with these settings changed."
    return [text, markdown_table(rows)]
