"""Expected best validation accuracy against the number of trials: if tuning for longer would have found more."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]


def expected_best(accuracies: ArrayLike) -> Array:
    """Expected maximum of k trials drawn without replacement from the N that were run, for k = 1 to N.

    The unbiased estimator of Tang et al. (2020); that of Dodge et al. (2019), who draw with replacement, falls short of it. Trials are
    exchangeable draws (random search); where they learn from each other, the curve is no more than a description.
    Raises ValueError if an accuracy is not finite: count a trial that diverged as 0.
    """
    ordered = _ordered(accuracies)
    return np.asarray(_weights(len(ordered)) @ ordered)


def spread_of_best(accuracies: ArrayLike) -> Array:
    """Standard deviation of the maximum of k trials drawn without replacement, for k = 1 to N (0 at N)."""
    ordered = _ordered(accuracies)
    weights = _weights(len(ordered))
    away = ordered - (weights @ ordered)[:, None]
    return np.asarray(np.sqrt((weights * away**2).sum(axis=1)))


def _weights(num: int) -> Array:
    """Probability that the maximum of k trials drawn without replacement is the r-th smallest; rows are k, columns r."""
    rank, drawn = np.arange(1, num + 1), np.arange(1, num + 1)[:, None]
    possible = rank >= drawn
    below = np.where(possible, rank - 1, drawn - 1)  # of the others, all are below the maximum
    return np.where(possible, np.exp(_log_choose(below, drawn - 1) - _log_choose(num, drawn)), 0.0)


def _ordered(accuracies: ArrayLike) -> Array:
    values = np.sort(np.asarray(accuracies, dtype=float))
    if not np.isfinite(values).all():
        raise ValueError("expected best accuracy needs a finite accuracy of every trial; count a diverged one as 0")
    return values


def _log_choose(n: ArrayLike, k: ArrayLike) -> Array:
    n, k = np.asarray(n, dtype=float), np.asarray(k, dtype=float)
    return np.asarray(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1))
