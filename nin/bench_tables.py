"""Format the numbers of `nin.bench` as tables."""

from collections.abc import Mapping
from typing import Any

from nin.text import text_table


def tables(result: Mapping[str, Any]) -> str:
    """Format the numbers of `nin.bench`, named as in its JSON."""
    rows: Mapping[str, Mapping[str, Any]] = result["settings"]

    def speeds(prefix: str) -> str:
        names = [f"{prefix}{name}" for name in ("images_per_sec", "ratio")]
        return text_table(
            ("setting", "ours in", "textbook, images/s", "ours, images/s", "ratio"),
            [
                (
                    name,
                    precision,
                    *(f"{row[key]:,.0f}" for key in (f"textbook_{names[0]}", names[0])),
                    f"{row[names[1]]:.2f}",
                )
                for name, whole in rows.items()
                for precision, row in whole["precisions"].items()
            ],
        )

    limits = text_table(
        ("setting", "in", "TFLOP/s in training", "matrix TFLOP/s", "share"),
        [
            (
                name,
                kind,
                f"{row['tflops']:.3f}",
                f"{row['matrix_tflops']:.3f}",
                f"{row['share_of_matrix_rate']:.1%}",
            )
            for name, whole in rows.items()
            for kind, row in {**whole["precisions"], f"{whole['precision']}, compiled": whole.get("compiled")}.items()
            if row
        ],
    )
    phases = list(next(iter(rows.values()))["phases"])
    where = text_table(
        ("setting", *phases),
        [(name, *(f"{row['phases'][phase]:.1%}" for phase in phases)) for name, row in rows.items()],
    )
    at_once = text_table(
        ("setting", "processes", "threads each", "images/s together", "ratio"),
        [
            (name, str(way["processes"]), str(way["threads"]), f"{way['images_per_sec']:,.0f}", f"{way['ratio']:.2f}")
            for name, ways in result["at_once"].items()
            for way in ways
        ],
    )
    parts = [
        ("From end to end: loading, training, evaluating", speeds("")),
        ("As the textbook counts: without loading and evaluation", speeds("step_")),
        ("Against the machine's matrix products", limits),
        ("Where our time goes", where),
        ("Several runs at once", at_once),
    ]
    compiled = {name: row["compiled"] for name, row in rows.items() if "compiled" in row}
    if compiled:
        table = text_table(
            ("setting", "images/s", "compiling, s"),
            [(name, f"{c['images_per_sec']:,.0f}", f"{c['compile_seconds']:.1f}") for name, c in compiled.items()],
        )
        parts.append(("Ours after torch.compile, from end to end", table))
    return "\n\n".join(f"{title}\n{table}" for title, table in parts)
