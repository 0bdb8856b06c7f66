"""A variant's verdict and failures in words, given its row of `Summary.variants`."""

import math
from typing import Any

from ablations.analysis import stats


def verdict_words(row: Any) -> str:
    """A row's verdict, such as "worse" or "no verdict: 1 seed".

    "(Holm)" or "(looks)" marks an inconclusive one whose interval, which is not corrected, excludes 0.
    """
    if row.verdict != stats.INCONCLUSIVE:
        return str(row.verdict)
    if row.n == 1:
        return "no verdict: 1 seed"
    if row.role == "confirmatory" and (row.difference_low > 0 or row.difference_high < 0):
        return f"{row.verdict} ({'looks' if math.isnan(row.p_holm) else 'Holm'})"
    return str(row.verdict)


def verdict_text(row: Any) -> str:
    """A row's verdict, in brackets where its p is not corrected and no claim rests on it; what it is where there is none."""
    if not row.verdict:
        return "baseline" if row.role == "baseline" else "not compared"
    return verdict_words(row) if row.role == "confirmatory" else f"[{verdict_words(row)}]"


def failures(row: Any) -> str:
    """Such as "1 of 3 diverged" or "2 of 3 diverged or lost classes", for a row whose runs did not all learn; else empty."""
    counts = {
        "collapsed": row.collapsed,
        "diverged": row.diverged,
        "lost classes": row.impaired - row.collapsed - row.diverged,
    }
    outcomes = [name for name, count in counts.items() if count]
    return f"{row.impaired} of {row.n} {' or '.join(outcomes)}" if outcomes else ""
