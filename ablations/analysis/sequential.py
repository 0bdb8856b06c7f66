"""Add seeds in looks declared beforehand, to each comparison until it is decided.

A group-sequential design. At each look the primary test of `ablations.analysis.moderated` is read at a nominal level, such that
all looks together spend alpha, by the function of Lan and DeMets (1983) that resembles O'Brien and Fleming's design: little
at the first looks, where few seeds make the tails of a test unreliable. p-values of t tests are read at these levels as those
of normal ones are (the significance-level approach of Jennison and Turnbull 2000, section 3.8). Holm's correction is
combined with looks as Maurer and Bretz (2013) do: at each look a comparison is read at the levels of alpha divided by the
number of differences not found yet.

Stopping as futile is not binding: it is no claim. Estimates after stopping are median unbiased in the stagewise order
(Jennison and Turnbull 2000, section 8.4), as far as stops at a difference go.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from ablations.analysis.interval import UNKNOWN, Interval
from ablations.analysis.moderated import ALPHA, Method, PrimaryTest, paired_tests
from ablations.analysis.stats import BETTER, EQUIVALENT, INCONCLUSIVE, WORSE

Array = NDArray[np.float64]
FUTILE, PENDING = "futile", "pending"
FUTILE_BELOW = 0.1  # predicted probability of a verdict at the last look
MAX_LOOKS = 4
STEP = 1.5  # growth of the number of seeds from look to look at least
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
FARTHEST = 30.0  # standard errors: beyond, a normal probability is 0


@dataclass(frozen=True)
class Decision:
    """A comparison in a study that goes on until it is decided.

    verdict     "better", "worse", "equivalent", "futile" (more seeds up to the last look would hardly decide it), "inconclusive"
                (undecided at the last look), or "pending" (the next look waits for seeds)
    num_seeds   seeds of the last look that the comparison took part in; 0 before the first
    next_seeds  seeds in all that its next look needs; None once it has stopped
    seen        difference at that look with the usual 95 % interval, which knows nothing of looks
    corrected   median-unbiased difference, and a 95 % interval that allows for the looks before; nan while pending
    method      that of the test (`PrimaryTest`); empty before the first look
    """

    verdict: str
    num_seeds: int
    next_seeds: int | None
    seen: Interval
    corrected: Interval
    method: Method | Literal[""] = ""


def looks(first: int, most: int) -> tuple[int, ...]:
    """Numbers of seeds at which to look: from `first` to `most`, each about the same factor above the one before.

    Raises ValueError unless 2 <= first <= most.
    """
    if not 2 <= first <= most:
        raise ValueError(
            f"--until-decided looks first at {first} seeds (--seeds): must be 2 or more, and at most the last "
            f"look (--max-seeds {most})"
        )
    num = min(MAX_LOOKS, 1 + int(math.log(most / first) / math.log(STEP) + 1e-9))
    inner = np.geomspace(first, most, num).round().astype(int) if num > 1 else [first]
    return tuple(sorted({first, *(int(n) for n in inner), most}))


@lru_cache(maxsize=4096)
def nominal_levels(looks: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """Two-sided levels at which p-values are read at each look, so that all looks together have an error of alpha."""
    fractions = np.array(looks) / looks[-1]
    spent = 4 * special.ndtr(special.ndtri(alpha / 4) / np.sqrt(fractions))  # alpha / 2 on either side
    levels, walk = [], START
    for k, fraction in enumerate(fractions):
        wanted = spent[k] - (spent[k - 1] if k else 0.0)
        edge = _edge(walk, fraction, wanted)
        levels.append(float(2 * special.ndtr(-edge / math.sqrt(fraction))))
        walk = walk.within(fraction, edge)
    return tuple(levels)


def _edge(walk: "_Walk", fraction: float, wanted: float) -> float:
    """Boundary beyond which the walk lies with this probability, both sides together; at most FARTHEST deviations."""

    def excess(edge: float) -> float:
        return 2 * walk.above(fraction, edge) - wanted

    farthest = FARTHEST * math.sqrt(fraction)
    if excess(farthest) >= 0:  # the first of very many seeds: next to nothing may be spent there
        return farthest
    return float(optimize.brentq(excess, 0.0, farthest, xtol=1e-12))


def decide(
    samples: Mapping[str, Mapping[int, float]],
    baseline: str,
    family: Collection[str],
    looks: Sequence[int],
    margin: float = 0.003,
    estimates: bool = True,
) -> dict[str, Decision]:
    """Every comparison of the `family` as of the last look for which all pending ones have their seeds.

    `samples` are accuracies by variant and seed. All looks are computed again from the first on, each at the lowest seeds of the
    baseline, so decisions depend on nothing but the results: a study that was interrupted comes to the same ones. The seeds
    of a comparison that has stopped are no longer read. Without `estimates` the corrected ones are left out, most of the work.
    """
    looks = tuple(looks)
    active = [name for name in family if name != baseline]
    decisions = {name: Decision(PENDING, 0, looks[0], UNKNOWN, UNKNOWN) for name in active}
    num_different, num_alike = len(active), len(active)  # hypotheses not rejected yet
    levels_read: list[float] = []  # one-comparison levels of the looks so far, for the estimates
    for k, num_seeds in enumerate(looks):
        seeds = sorted(samples[baseline])[:num_seeds]
        if (
            not active
            or len(seeds) < num_seeds
            or not all(samples.get(name, {}).keys() >= set(seeds) for name in active)
        ):
            break
        now = {name: {seed: samples[name][seed] for seed in seeds} for name in (baseline, *active)}
        tests = paired_tests(now, baseline, active)
        alike = _rejected(
            {name: tests[name].p_equivalent(margin) for name in active}, num_alike, k, looks, 2 * ALPHA, 2
        )
        different = _rejected({name: tests[name].p for name in active}, num_different, k, looks, ALPHA, 1)
        num_alike -= len(alike)
        num_different -= len(different)
        level = _level(looks, k, ALPHA / max(1, num_different))
        level_alike = _level(looks, len(looks) - 1, 2 * ALPHA / max(1, num_alike)) / 2
        level_last = _level(looks, len(looks) - 1, ALPHA / max(1, num_different))
        for name in active:
            test = tests[name]
            if name in alike:
                verdict = EQUIVALENT
            elif name in different:
                verdict = BETTER if test.estimate > 0 else WORSE
            elif k == len(looks) - 1:
                verdict = INCONCLUSIVE
            elif _prob_decided_at_last(test, num_seeds / looks[-1], margin, level_last, level_alike) < FUTILE_BELOW:
                verdict = FUTILE
            else:
                verdict = PENDING
            seen, corrected = test.interval, UNKNOWN
            if estimates and verdict != PENDING:
                corrected = after_stopping(test, looks[: k + 1], levels_read)
                # Near 0, an interval from p alone is narrower than that of the t test.
                if verdict not in (BETTER, WORSE):
                    low, high = min(corrected.low, seen.low), max(corrected.high, seen.high)
                    corrected = replace(corrected, low=low, high=high)
            decisions[name] = Decision(
                verdict=verdict,
                num_seeds=num_seeds,
                next_seeds=looks[k + 1] if verdict == PENDING else None,
                seen=seen,
                corrected=corrected,
                method=test.method,
            )
        active = [name for name in active if decisions[name].verdict == PENDING]
        levels_read.append(level)
    return decisions


def after_stopping(test: PrimaryTest, looks: Sequence[int], levels: Sequence[float]) -> Interval:
    """Median-unbiased difference, and its 95 % interval, of a comparison that stopped at the last of `looks`.

    `levels` are the nominal levels of the looks before it. At the first look there is nothing to correct.
    """
    p = test.p
    if math.isnan(p):
        return UNKNOWN
    if not levels:
        return test.interval
    z = min(-float(special.ndtri(p / 2)), FARTHEST) * math.copysign(1, test.estimate)
    error = abs(test.estimate / z) if z else test.error  # of a normal difference with the p of this t test
    fractions = tuple(num / looks[-1] for num in looks[:-1])
    edges = tuple(-float(special.ndtri(level / 2)) * math.sqrt(f) for level, f in zip(levels, fractions, strict=True))
    walks = _walks(fractions, edges)

    def more_extreme(drift: float) -> float:
        """Probability of a stop above at an earlier look, or of a larger estimate at this one."""
        return sum(
            walk.above(fraction, edge, drift)
            for walk, fraction, edge in zip(walks, (*fractions, 1.0), (*edges, z), strict=True)
        )

    tail = ALPHA / 2
    low, estimate, high = (
        error * optimize.brentq(lambda drift, p=p: more_extreme(drift) - p, z - 12, z + 12, xtol=1e-6)
        for p in (tail, 0.5, 1 - tail)
    )
    return Interval(estimate, low, high)


def _rejected(
    p_values: Mapping[str, float], num_left: int, look: int, looks: tuple[int, ...], alpha: float, sides: int
) -> set[str]:
    """Hypotheses rejected at this look by Holm's steps, of `num_left` that were not rejected before."""
    rejected: set[str] = set()
    for name, p in sorted((item for item in p_values.items() if not math.isnan(item[1])), key=lambda item: item[1]):
        if p > _level(looks, look, alpha / (num_left - len(rejected))) / sides:
            break
        rejected.add(name)
    return rejected


def _level(looks: tuple[int, ...], look: int, alpha: float) -> float:
    return nominal_levels(looks, alpha)[look]


def _prob_decided_at_last(test: PrimaryTest, fraction: float, margin: float, level: float, level_alike: float) -> float:
    """Predicted probability that the last look decides, given what is seen at this fraction of its seeds, without a prior.

    A comparison that cannot be tested yet (neither side varies) may still be decided.
    """
    if not test.error > 0:
        return 1.0
    error = test.error * math.sqrt(fraction)
    freedom = test.freedom / fraction
    spread = test.error * math.sqrt(1 - fraction)
    found = -float(special.stdtrit(freedom, level / 2)) * error
    alike = margin + float(special.stdtrit(freedom, level_alike)) * error

    def below(edge: float) -> float:
        return float(special.ndtr((edge - test.estimate) / spread))

    return 1 - below(found) + below(-found) + (below(alike) - below(-alike) if alike > 0 else 0.0)


@dataclass(frozen=True)
class _Walk:
    """Brownian motion without drift that has stayed within its edges so far: where it is, by nodes and their probability."""

    time: float
    nodes: Array
    mass: Array

    def above(self, time: float, edge: float, drift: float = 0.0) -> float:
        """Probability to be above `edge` at a later time, with a drift from the start on (by Girsanov's theorem)."""
        step = time - self.time
        mass = self.mass * np.exp(drift * self.nodes - drift**2 * self.time / 2)
        return float(mass @ special.ndtr((self.nodes + drift * step - edge) / math.sqrt(step)))

    def within(self, time: float, edge: float) -> "_Walk":
        """The motion as it goes on from -edge to edge at a later time."""
        step = time - self.time
        nodes = edge * NODES
        away = (nodes[:, None] - self.nodes) / math.sqrt(step)
        density = np.exp(-(away**2) / 2) / math.sqrt(2 * math.pi * step)
        return _Walk(time, nodes, edge * WEIGHTS * (density @ self.mass))


START = _Walk(0.0, np.zeros(1), np.ones(1))


@lru_cache(maxsize=4096)
def _walks(fractions: tuple[float, ...], edges: tuple[float, ...]) -> list[_Walk]:
    """The motion at its start and after each look that it went on from."""
    walks = [START]
    for fraction, edge in zip(fractions, edges, strict=True):
        walks.append(walks[-1].within(fraction, edge))
    return walks
