"""Votes of the exits on one image, and how different the exits are.

The exits of a multi-exit network are *sub-models*: each gives its own answer to the same
image. A *vote* makes one answer of them. It helps where the sub-models are good and err on
different images, which `diversity` measures; `accuracies` shows what the vote reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TIE = 1e-4  # hard votes that differ by less than this part of the largest weight are tied


def check_logits(logits: Tensor) -> Tensor:
    """Logits `[K, B, C]` in float32 at least (float64 stays as it is).

    Raises:
        ValueError: they are not a floating-point tensor of three axes, or there is no exit
            or no class.
    """
    if logits.ndim != 3 or not logits.is_floating_point() or 0 in (len(logits), logits.shape[2]):
        raise ValueError(
            f"got logits of shape {tuple(logits.shape)} and type {logits.dtype}: give floating-"
            "point logits [K exits, B images, C classes] (for a single exit: logits[None])"
        )
    return logits if logits.dtype == torch.float64 else logits.float()


def check_labels(labels: Tensor, scores: Tensor) -> Tensor:
    """Labels `[B]` as int64 on the device of the scores `[..., B, C]`.

    Raises:
        ValueError: they are not integers from 0 to C - 1, one for each image, or there is no
            image at all.
    """
    images, classes = scores.shape[-2:]
    if labels.is_floating_point() or labels.shape != (images,) or images == 0:
        raise ValueError(
            f"got labels of shape {tuple(labels.shape)} and type {labels.dtype} for {images} "
            "images: give one integer label for each image, and at least one image"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"got labels from {labels.min().item()} to {labels.max().item()} for {classes} "
            f"classes: labels must lie between 0 and {classes - 1}"
        )
    return labels.to(scores.device, torch.int64)


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over the last axis, `[..., C]` to `[..., C]`, in float32 at least."""
    return (logits if logits.dtype == torch.float64 else logits.float()).softmax(-1)


def vote(
    logits: Tensor, rule: str = "probability", weights: Tensor | Sequence[float] | None = None
) -> Tensor:
    """One answer of all exits (Kuncheva 2014, chapters 4 and 5, describes all these rules).

    - "majority": every exit gives its vote to its most probable class (the lowest class index
      if several are). Between classes with equally many votes the mean probability decides:
      with equal weights the scores are (votes + mean probability) / (K + 1), so it orders
      tied classes and can never overturn a vote.
    - "probability": the mean of the exits' probabilities.
    - "logit": the softmax of the mean of the logits.
    - "geometric": the geometric mean of the probabilities, normalised. This is the same thing
      as "logit": a log-probability is a logit less a number that all classes of one exit
      share, and the softmax of the mean cancels it. Both names run the same line.

    `RULES` holds them by name, as functions of the logits and the weights, and can be given more.

    Args:
        logits: `[K, B, C]`, finite; computed in float32 at least, float64 stays float64.
        rule: one of `RULES`.
        weights: how much each exit counts, `[K]`, not negative, any scale; equal if None.

    Returns:
        Scores `[B, C]`; every row sums to 1 and its largest entry is the vote (if the scores
        are equal too, the lowest class index).

    Raises:
        ValueError: unknown rule, logits that are not `[K, B, C]`, or weights that are
            negative, not finite, all zero, or not K.
    """
    logits = check_logits(logits)
    if rule not in RULES:
        raise ValueError(f"got the rule {rule!r}: choose one of {', '.join(RULES)}")
    return RULES[rule](logits, _normalised(weights, logits))


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    # Not a matrix product: autocast would run that in half precision.
    return (weights[:, None, None] * values).sum(0)


def _majority(logits: Tensor, weights: Tensor) -> Tensor:
    """Votes plus the mean probability, times the smallest step between two vote totals.

    The mean probability of a class with fewer votes exceeds that of one with more by at most
    1/2, hence by less than a step. With equal weights a step is one vote.
    """
    strength = weights / weights.max()
    votes = _mean(F.one_hot(logits.argmax(-1), logits.shape[-1]), strength)
    ranked = F.pad(votes.sort(-1).values, (1, 0))
    steps = ranked.diff(dim=-1)
    step = steps.masked_fill(steps < TIE, 1).amin(-1, keepdim=True).clamp(max=1)
    scores = votes + step * _mean(probabilities(logits), weights)
    return scores / scores.sum(-1, keepdim=True)


def _probability(logits: Tensor, weights: Tensor) -> Tensor:
    return _mean(probabilities(logits), weights)


def _logit(logits: Tensor, weights: Tensor) -> Tensor:
    return _mean(logits.log_softmax(-1), weights).softmax(-1)


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "majority": _majority,
    "probability": _probability,
    "logit": _logit,
    "geometric": _logit,
}


def _normalised(weights: Tensor | Sequence[float] | None, logits: Tensor) -> Tensor:
    if weights is None:
        return logits.new_full((len(logits),), 1 / len(logits))
    weights = torch.as_tensor(weights, dtype=logits.dtype).to(logits.device)
    usable = weights.shape == (len(logits),) and weights.isfinite().all()
    if not usable or (weights < 0).any() or not (weights > 0).any():
        raise ValueError(
            f"got the weights {weights.tolist()} for {len(logits)} exits: give one finite weight "
            "for each exit, none negative and not all zero"
        )
    weights = weights / weights.max()  # first, so that the sum of huge weights stays finite
    return weights / weights.sum()


def fit_weights(logits: Tensor, labels: Tensor) -> Tensor:
    """The weights that make the "probability" vote most likely, by EM, on validation images.

    The weighted mean of the exits' probabilities is a mixture with fixed components, so its
    log-likelihood is concave in the weights and EM climbs to the maximum from equal weights
    (McLachlan and Peel, *Finite Mixture Models*, 2000; choosing the weights of several models
    on data that they were not trained on is stacking: Wolpert 1992, Breiman 1996).
    Each step credits an image to the exits in proportion to weight times the probability of
    the right class; the new weight of an exit is its mean credit. It stops when no weight
    changes by more than 1e-9, or after 10,000 steps.

    Args:
        logits: `[K, N, C]`, of images that were not trained on.
        labels: `[N]`.

    Returns:
        Weights `[K]` with sum 1, float64, on the CPU.

    Raises:
        ValueError: logits or labels of the wrong shape, type or range.
    """
    logits = check_logits(logits)
    labels = check_labels(labels, logits)
    true = labels.expand(len(logits), -1)[..., None]
    evidence = logits.detach().log_softmax(-1).gather(-1, true)[..., 0].cpu().double()  # [K, N]
    weights = evidence.new_full((len(logits),), 1 / len(logits))
    for _ in range(10_000):
        credit = (weights.log()[:, None] + evidence).softmax(0)
        weights, before = credit.mean(1), weights
        if (weights - before).abs().max() < 1e-9:
            break
    return weights / weights.sum()


def any_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Where the oracle is right, that is any exit: booleans `[N]` for logits `[K, N, C]`."""
    return (logits.argmax(-1) == labels).any(0)


def accuracies(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """What each exit, each vote and the oracle reach, as fractions of the images.

    The oracle is right wherever any exit is: what a perfect choice of the exit would reach.
    It bounds the exits and the majority; a mean may even find a class that no exit put first.

    Args:
        logits: `[K, N, C]`.
        labels: `[N]`.

    Returns:
        Accuracies under "exit 1" to "exit K", "vote majority" and so on for every one of
        `RULES`, and "oracle", in this order.

    Raises:
        ValueError: logits or labels of the wrong shape, type or range.
    """
    logits = check_logits(logits)
    labels = check_labels(labels, logits)
    hits = {f"exit {k}": z.argmax(-1) == labels for k, z in enumerate(logits, 1)}
    hits |= {f"vote {rule}": vote(logits, rule).argmax(-1) == labels for rule in RULES}
    hits["oracle"] = any_right(logits, labels)
    return {name: hit.sum().item() / len(labels) for name, hit in hits.items()}


def ambiguity(logits: Tensor, weights: Tensor | Sequence[float] | None = None) -> Tensor:
    """How far the exits are apart on each image, in nats: what their geometric vote gains by it.

    For every label, the NLL of the "geometric" vote is the weighted mean of the exits' NLL less
    this number. So it needs no labels. It is 0 where all exits give the same probabilities and
    never negative (Heskes 1997, logarithmic opinion pools; Krogh and Vedelsby 1994 named it).

    Args:
        logits: `[K, B, C]`.
        weights: how much each exit counts, as in `vote`.

    Returns:
        `[B]`, in float32 at least.

    Raises:
        ValueError: as `vote`.
    """
    logits = check_logits(logits)
    pooled = _mean(logits.log_softmax(-1), _normalised(weights, logits))
    return -pooled.logsumexp(-1)


class Diversity(NamedTuple):
    """How pairs of exits differ, each `[K, K]`, symmetric, float64, on the CPU.

    Attributes:
        disagreement: share of the images on which exactly one of the two is right, 0 to 1.
        q_statistic: Yule's Q, -1 to 1; 0 for independent errors, positive where both tend to
            be right on the same images. nan where it is 0 / 0: in each of the products
            (both right) x (both wrong) and (only one right) x (only the other) a count is 0.
        error_correlation: correlation of right and wrong, -1 to 1. nan in the rows and columns
            of an exit that is right on every image or on none: it has nothing to correlate.
    """

    disagreement: Tensor
    q_statistic: Tensor
    error_correlation: Tensor


def diversity(logits: Tensor, labels: Tensor) -> Diversity:
    """Diversity of the exits, pair by pair (the pairwise measures of Kuncheva and Whitaker 2003).

    All three count on how many images both exits of a pair are right, only one is, or none.

    Args:
        logits: `[K, N, C]`.
        labels: `[N]`.

    Returns:
        Three matrices `[K, K]`; see `Diversity`.

    Raises:
        ValueError: logits or labels of the wrong shape, type or range.
    """
    logits = check_logits(logits)
    labels = check_labels(labels, logits)
    right = (logits.argmax(-1) == labels).cpu().double()  # [K, N]
    wrong = 1 - right
    both, neither = right @ right.T, wrong @ wrong.T
    first, second = right @ wrong.T, wrong @ right.T
    excess = both * neither - first * second
    spread = (right.sum(1) * wrong.sum(1)).sqrt()
    return Diversity(
        disagreement=(first + second) / len(labels),
        q_statistic=excess / (both * neither + first * second),
        error_correlation=excess / torch.outer(spread, spread),
    )
