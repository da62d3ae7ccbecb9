"""Intervals, p values and how values are told in tables. Needs SciPy: pip install scipy"""

import itertools
import math

import numpy as np
from scipy.stats import binomtest, ttest_ind

COUNTED = 10_000  # so many splits are counted; of more, SAMPLED are drawn
SAMPLED = 100_000


def difference(a, b):
    """Return mean(a) - mean(b) and its 95% interval (Welch's t)."""
    low, high = ttest_ind(a, b, equal_var=False).confidence_interval()
    return np.mean(a) - np.mean(b), low, high


def permutation(a, b, batches_a, batches_b):
    """Return the p value of mean(a) - mean(b), from a permutation test within batches.

    batches_a and batches_b are the batches of the values. If b has none in a batch of a, values are
    permuted across all batches.
    """
    values = np.concatenate([a, b]).astype(float)
    batches = np.array([*batches_a, *batches_b])
    if not set(batches_a) <= set(batches_b):
        batches[:] = "all"
    in_a = np.arange(len(values)) < len(a)
    groups = [np.flatnonzero(batches == batch) for batch in np.unique(batches)]
    for group in groups:
        values[group] -= values[group].mean()  # so that the sum over a is 0 on average
    found = abs(values[in_a].sum())
    sizes = [in_a[group].sum() for group in groups]
    if math.prod(math.comb(len(group), k) for group, k in zip(groups, sizes)) < COUNTED:
        splits = [itertools.combinations(values[group], k) for group, k in zip(groups, sizes)]
        sums = [sum(map(sum, split)) for split in itertools.product(*splits)]
        return np.mean(np.abs(sums) >= found - 1e-9)
    rng, sums = np.random.default_rng(0), np.zeros(SAMPLED)
    for group, k in zip(groups, sizes):
        drawn = rng.permuted(np.tile(values[group], (SAMPLED, 1)), axis=1)
        sums += drawn[:, :k].sum(axis=1)
    return (1 + np.sum(np.abs(sums) >= found - 1e-9)) / (1 + SAMPLED)


def holm(chances):
    """Return p values corrected for their number (Holm's method)."""
    corrected, highest = np.ones(len(chances)), 0.0
    for rank, i in enumerate(np.argsort(chances)):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[i]))
        corrected[i] = highest
    return corrected


def share(k, n):
    """Return "k of n" with its 95% interval (Wilson's)."""
    low, high = binomtest(k, n).proportion_ci(method="wilson")
    return f"{k} of {n} ({low:.0%} to {high:.0%})"


def spread(values, digits=0, ends=(25, 75)):
    """Return "median (quartile to quartile)", or all values if there are no more than three.

    ends are percentiles: with (0, 100) the lowest and the highest value stand in the brackets.
    """
    if len(values) <= 3:
        told = [f"{x:.{digits}f}" for x in sorted(values)]
        return ", ".join(told) if len(set(told)) > 1 else told[0]
    low, median, high = (f"{x:.{digits}f}" for x in np.percentile(values, [ends[0], 50, ends[1]]))
    return median if low == high else f"{median} ({low} to {high})"
