"""How good answers are, and how sure a difference is.

The first functions measure one set of answers: accuracy, negative log-likelihood, calibration, and
the temperature that mends it. `summarise` takes them together for all exits and votes. The last
ones say what several seeds show: an interval for a mean, and for the mean difference of two methods
that were run with the same seeds.

Probabilities come from `voting.vote`, or from `voting.probabilities(logits)` for exits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import voting
from .voting import check_labels, check_logits

if TYPE_CHECKING:
    import numpy as np


def accuracy(scores: Tensor, labels: Tensor, top: int = 1) -> Tensor:
    """Share of the images whose label is among the `top` largest scores.

    Args:
        scores: logits or probabilities `[..., B, C]`, for example `[K, B, C]` of all exits.
        labels: `[B]`.
        top: 1 for top-1 accuracy, 5 for top-5.

    Returns:
        Fractions `[...]`, float64, on the CPU. Among equal scores the lower class index comes
        first, as for `argmax`.

    Raises:
        ValueError: labels of the wrong shape, type or range, or `top` not in 1 to C.
    """
    _check_axes(scores)
    labels = check_labels(labels, scores)
    if not 1 <= top <= scores.shape[-1]:
        raise ValueError(f"got top={top} for {scores.shape[-1]} classes: give 1 up to that number")
    best = scores.argsort(dim=-1, descending=True, stable=True)[..., :top]
    hits = (best == labels[:, None]).any(-1)
    return hits.sum(-1).cpu().double() / len(labels)


def nll(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels, in nats (the cross-entropy of the answers).

    Args:
        probabilities: `[..., B, C]`. A probability of 0 counts as the smallest normal number
            of its type, so a label held impossible costs 87 nats in float32, not infinity.
        labels: `[B]`.

    Returns:
        Nats per image `[...]`, float64, on the CPU.

    Raises:
        ValueError: rows that are not probabilities (logits, for example), or labels of the
            wrong shape, type or range.
    """
    probabilities = _check_probabilities(probabilities)
    labels = check_labels(labels, probabilities)
    index = labels[:, None].expand(*probabilities.shape[:-1], 1)
    true = probabilities.gather(-1, index)[..., 0]
    return -true.clamp(min=torch.finfo(true.dtype).tiny).cpu().double().log().mean(-1)


class Calibration(NamedTuple):
    """Confidence against accuracy, bin by bin; tensors are float64, on the CPU.

    Attributes:
        ece: expected calibration error, a fraction from 0 to 1.
        edges: `[bins + 1]`, from 0 to 1. A bin has its upper edge and not its lower one;
            the first has both.
        confidence: `[bins]`, mean confidence; nan in an empty bin.
        accuracy: `[bins]`, share that is right; nan in an empty bin.
        count: `[bins]`, number of images (int64).
    """

    ece: float
    edges: Tensor
    confidence: Tensor
    accuracy: Tensor
    count: Tensor


def calibration(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Calibration:
    """Expected calibration error (Guo et al. 2017, equation 3) and the bins behind it.

    Args:
        probabilities: `[B, C]`; the largest of a row is its confidence.
        labels: `[B]`.
        bins: number of bins of equal width.

    Returns:
        The error, the mean over images of `|accuracy - confidence|` of their bin, and the bins.

    Raises:
        ValueError: as in `nll`, or no bin.
    """
    if probabilities.ndim != 2 or bins < 1:
        raise ValueError(
            f"got probabilities of shape {tuple(probabilities.shape)} and bins={bins}: give "
            "[B, C] and at least one bin"
        )
    probabilities = _check_probabilities(probabilities)
    labels = check_labels(labels, probabilities)
    confidence, answer = probabilities.max(-1)
    right = (answer == labels).cpu().double()
    confidence = confidence.cpu().double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    index = torch.bucketize(confidence, edges[1:-1])
    count = torch.bincount(index, minlength=bins)
    hits = torch.bincount(index, right, minlength=bins)
    total = torch.bincount(index, confidence, minlength=bins)
    ece = (hits - total).abs().sum().item() / len(labels)
    return Calibration(ece, edges, total / count, hits / count, count)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Temperature scaling: the one from 0.01 to 100 that makes the labels most likely.

    Dividing the logits by it makes the answers as sure as they should be on the whole, and changes
    no answer (Guo et al. 2017). The NLL is convex in 1 / T, so the one minimum is found by a
    bounded search.

    Args:
        logits: `[N, C]`, of images that were not trained on.
        labels: `[N]`.

    Raises:
        ValueError: logits or labels of the wrong shape, type or range.
    """
    from scipy.optimize import minimize_scalar

    logits = check_logits(logits[None]).detach().cpu().double()[0]
    labels = check_labels(labels, logits)

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits / math.exp(log_temperature), labels).item()

    ends = math.log(0.01), math.log(100)
    return math.exp(minimize_scalar(loss, bounds=ends, method="bounded").x)


def summarise(logits: Tensor, labels: Tensor) -> dict:
    """Accuracy, top-5, NLL and ECE of every exit and every vote, and the oracle's accuracy.

    Args:
        logits: `[K, B, C]`.
        labels: `[B]`.

    Returns:
        "exits", a list with a dict of the four for each exit; "votes", the same by rule; "oracle".

    Raises:
        ValueError: for shapes, types or labels that do not fit together.
    """

    def quality(probabilities: Tensor) -> dict:
        classes = probabilities.shape[-1]
        return {
            "accuracy": float(accuracy(probabilities, labels)),
            "top5": float(accuracy(probabilities, labels, top=min(5, classes))),
            "nll": float(nll(probabilities, labels)),
            "ece": float(calibration(probabilities, labels).ece),
        }

    return {
        "exits": [quality(p) for p in voting.probabilities(logits)],
        "votes": {rule: quality(voting.vote(logits, rule)) for rule in voting.RULES},
        "oracle": voting.any_right(logits, labels).double().mean().item(),
    }


class Interval(NamedTuple):
    """A mean over `n` seeds, its standard deviation (n - 1) and its interval [low, high]."""

    mean: float
    sd: float
    low: float
    high: float
    n: int


def interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t interval for the mean over seeds: mean -/+ t sd / sqrt(n).

    Args:
        values: one number for each seed, at least two. If all are equal the interval has no
            width, which says that the spread is unknown rather than that it is nil.
        level: how often such intervals hold the true mean, for example 0.95.

    Returns:
        Mean, standard deviation, both ends and the number of seeds, in the unit of the values.

    Raises:
        ValueError: fewer than two values, one that is not finite, or a level not in (0, 1).
    """
    import numpy as np
    from scipy import stats

    values = _check_seeds(values, level)
    n, mean, sd = len(values), values.mean(), values.std(ddof=1)
    half = stats.t.ppf((1 + level) / 2, n - 1) * sd / np.sqrt(n)
    return Interval(float(mean), float(sd), float(mean - half), float(mean + half), n)


def prediction_interval(
    values: Sequence[float], new: int = 1, level: float = 0.95
) -> tuple[float, float]:
    """Where the mean over `new` further seeds lies: mean -/+ t sd sqrt(1 / n + 1 / new).

    Wider than `interval`, which is about the true mean: new seeds have luck of their own.

    Args:
        values: one number for each seed, at least two.
        new: how many further seeds, at least one.
        level: how often such bounds hold the new mean.

    Returns:
        Both bounds, in the unit of the values.

    Raises:
        ValueError: as `interval`; or `new` is below one.
    """
    import numpy as np
    from scipy import stats

    if new < 1:
        raise ValueError(f"the number of new seeds must be at least 1, got {new}")
    mean, sd, _, _, n = interval(values, level)
    half = stats.t.ppf((1 + level) / 2, n - 1) * sd * np.sqrt(1 / n + 1 / new)
    return float(mean - half), float(mean + half)


class Paired(NamedTuple):
    """The differences a - b over `n` seeds.

    Attributes:
        mean: mean difference, in the unit of the values.
        sd: standard deviation of the differences (n - 1).
        t_low: lower end of the t interval of the mean difference.
        t_high: its upper end.
        p: two-sided p-value of the paired t test; nan if all differences are equal, because
            the test has no spread to judge by.
        bootstrap_low: lower end of the percentile bootstrap interval.
        bootstrap_high: its upper end.
        n: number of seeds.
    """

    mean: float
    sd: float
    t_low: float
    t_high: float
    p: float
    bootstrap_low: float
    bootstrap_high: float
    n: int

    def text(self) -> str:
        """The mean and its t interval, as in "+1.2 (+0.3 to +2.1)"."""
        return f"{self.mean:+.1f} ({self.t_low:+.1f} to {self.t_high:+.1f})"


def paired(a: Sequence[float], b: Sequence[float], level: float = 0.95, seed: int = 0) -> Paired:
    """Compare two methods that were run with the same seeds, by their differences a - b.

    A seed's split and order of the data touch both methods alike and cancel in the difference.
    The bootstrap draws 9,999 times from the differences (Efron and Tibshirani 1993, chapter
    13). We take percentiles because they exist for any sample; with fewer than about ten
    seeds they are too narrow, and the t interval is the one to trust.

    Args:
        a: one number for each seed, at least two.
        b: the other method's, in the same order of seeds.
        level: of both intervals.
        seed: of the bootstrap.

    Returns:
        Mean difference, t interval and test, and bootstrap interval. If all differences are
        equal both intervals have no width.

    Raises:
        ValueError: not equally many values, fewer than two, one that is not finite, or a level
            not in (0, 1).
    """
    import numpy as np
    from scipy import stats

    a, b = _check_seeds(a, level), _check_seeds(b, level)
    if len(a) != len(b):
        raise ValueError(f"got {len(a)} and {len(b)} values: give both methods the same seeds")
    change = a - b
    if np.ptp(change) <= 1e-12 * max(np.abs(a).max(), np.abs(b).max()):  # equal but for rounding
        mean = float(change.mean())
        return Paired(mean, 0.0, mean, mean, float("nan"), mean, mean, len(a))
    mean, sd, low, high, n = interval(change, level)
    drawn = stats.bootstrap(
        (change,), np.mean, confidence_level=level, method="percentile", rng=seed
    ).confidence_interval
    p = float(stats.ttest_rel(a, b).pvalue)
    return Paired(mean, sd, low, high, p, float(drawn.low), float(drawn.high), n)


def _check_axes(scores: Tensor) -> None:
    if scores.ndim < 2 or not scores.is_floating_point():
        raise ValueError(
            f"got scores of shape {tuple(scores.shape)} and type {scores.dtype}: give floating-"
            "point scores [..., B images, C classes]"
        )


def _check_probabilities(probabilities: Tensor) -> Tensor:
    _check_axes(probabilities)
    if probabilities.dtype != torch.float64:
        probabilities = probabilities.float()
    sums = probabilities.sum(-1)
    if not ((probabilities >= 0).all() and ((sums - 1).abs() < 0.01).all()):
        raise ValueError(
            f"got rows with entries from {probabilities.min().item():.4g} and sums up to "
            f"{sums.max().item():.4g}, which are no probabilities: give logits through "
            "voting.probabilities first"
        )
    return probabilities


def _check_seeds(values: Sequence[float], level: float) -> np.ndarray:
    import numpy as np

    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all() or not 0 < level < 1:
        raise ValueError(
            f"got the values {values.tolist()} and level={level}: give at least two finite "
            "numbers, one for each seed, and a level between 0 and 1"
        )
    return values
