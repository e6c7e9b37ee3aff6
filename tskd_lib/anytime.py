"""Early exit: stop at the first exit that is sure enough, and skip the rest.

An exit is sure enough when its *confidence*, the largest probability of its answer, reaches a
threshold. Easy images then cost a part of the network, hard ones all of it. `early_exit` does
it; `simulate` and `curve` tell from stored logits what it would do; `choose_threshold` picks
the threshold for a budget or an accuracy, on validation images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .networks import evaluating
from .voting import check_labels, check_logits, vote

if TYPE_CHECKING:
    import pandas as pd

    from .exits import MultiExitNet

NEVER = 1.01  # a threshold above every confidence: no image stops before the deepest exit


class EarlyExit(NamedTuple):
    """What early exit answers.

    Attributes:
        scores: `[B, C]`; every row sums to 1 and its largest entry is the answer.
        exits: `[B]`, the index from 0 of the exit that answered.
    """

    scores: Tensor
    exits: Tensor


def early_exit(
    net: MultiExitNet, images: Tensor, threshold: float, rule: str | None = None
) -> EarlyExit:
    """Run every image to the first exit whose confidence reaches the threshold, no further.

    Images that are answered leave the batch, so a stage computes only those still waiting; a
    stage that no image waits for is not run. The deepest exit always answers. This is
    BranchyNet (Teerapittayanon et al. 2016) with the threshold on the largest probability, as
    in MSDNet (Huang et al. 2018), and one threshold for all exits. The network runs in
    evaluation mode and is left as it was.

    Args:
        net: the multi-exit network.
        images: `[B, C, H, W]`.
        threshold: 0 answers everything at exit 1; above 1 everything runs to the deepest.
        rule: None answers with the exit's own probabilities. One of `voting.RULES` answers
            with the vote of the exits reached so far, whose confidence then decides.

    Returns:
        Scores and exits in the order of the images.

    Raises:
        ValueError: the threshold is not a number, or the rule is unknown.
    """
    _check_threshold(threshold)
    with evaluating(net), torch.inference_mode():
        waiting = torch.arange(len(images), device=images.device)
        exits = torch.empty_like(waiting)
        hidden, reached = net.backbone.stem(images), []
        for k in range(len(net.exits)):
            hidden, logits, _ = net.advance(hidden, k)
            reached.append(logits)
            answer = _answer(torch.stack(reached), rule)
            if k == 0:
                scores = torch.empty_like(answer)
            scores[waiting], exits[waiting] = answer, k  # overwritten if the image goes on
            on = ~(answer.amax(-1) >= threshold)
            if not on.any():
                break
            if not on.all():
                waiting, hidden, reached = waiting[on], hidden[on], [z[on] for z in reached]
    return EarlyExit(scores, exits)


def simulate(logits: Tensor, threshold: float, rule: str | None = None) -> EarlyExit:
    """What `early_exit` answers, told from the logits of all exits.

    Args:
        logits: `[K, B, C]`.
        threshold: see `early_exit`.
        rule: see `early_exit`.

    Returns:
        Scores and exits; nothing is saved here, since all exits were computed.

    Raises:
        ValueError: logits that are not `[K, B, C]`, a threshold that is not a number, or an
            unknown rule.
    """
    _check_threshold(threshold)
    answers = _answers(logits, rule)
    sure = answers.amax(-1) >= threshold
    sure[-1] = True
    exits = sure.int().argmax(0)  # the first that is sure
    return EarlyExit(answers[exits, torch.arange(len(exits), device=exits.device)], exits)


def curve(
    logits: Tensor,
    labels: Tensor,
    flops: Sequence[int],
    rule: str | None = None,
    thresholds: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Accuracy against cost of early exit, from the logits of all exits (exact, no sampling).

    Args:
        logits: `[K, N, C]`.
        labels: `[N]`.
        flops: cost of one image up to each exit, cumulative, as `MultiExitNet.flops()` gives.
        rule: see `early_exit`.
        thresholds: the thresholds to show; if None, up to 101 evenly spaced quantiles of the
            confidences that occur, 0 (all at exit 1) and `NEVER` (all at the deepest).

    Returns:
        A row for each threshold, with columns "threshold", "accuracy" (fraction), "flops"
        (mean per image) and "exit 1" to "exit K", the share of images answered at each exit.

    Raises:
        ValueError: logits, labels or flops of the wrong shape, type or range, a threshold that
            is not a number, or an unknown rule.
    """
    confidence, right = _outcomes(logits, labels, rule)
    if thresholds is None:
        ranked = confidence[:-1].flatten().sort().values
        picks = torch.linspace(0, len(ranked) - 1, min(len(ranked), 101)).long()
        thresholds = [0.0, *ranked[picks].unique().tolist(), NEVER]
    return _table(confidence, right, flops, thresholds)


def choose_threshold(
    logits: Tensor,
    labels: Tensor,
    flops: Sequence[int],
    *,
    budget: float | None = None,
    accuracy: float | None = None,
    rule: str | None = None,
) -> float:
    """The threshold for a target cost or a target accuracy, chosen on validation images.

    Every confidence that occurs is tried, so on these images the choice is exact; on new ones
    cost and accuracy come out near the target.

    Args:
        logits: `[K, N, C]`, of images that were not trained on.
        labels: `[N]`.
        flops: cost of one image up to each exit, cumulative.
        budget: mean FLOPs per image that may be spent; gives the largest threshold that fits.
        accuracy: fraction to reach; gives the cheapest threshold that reaches it.
        rule: see `early_exit`.

    Returns:
        The threshold for `early_exit`; `NEVER` if everything must run to the deepest exit.

    Raises:
        ValueError: not exactly one target, a target that no threshold reaches, or bad input as
            in `curve`.
    """
    if (budget is None) == (accuracy is None):
        raise ValueError(f"got budget={budget} and accuracy={accuracy}: give exactly one of them")
    confidence, right = _outcomes(logits, labels, rule)
    table = _table(confidence, right, flops, [0.0, *confidence[:-1].unique().tolist(), NEVER])
    if budget is not None:
        fits = table[table["flops"] <= budget]
        reachable = f"the cheapest threshold needs a budget of {table['flops'].min():.12g} FLOPs"
    else:
        fits = table[table["accuracy"] >= accuracy]
        reachable = f"the best threshold reaches an accuracy of {table['accuracy'].max():.12g}"
    if fits.empty:
        raise ValueError(f"got budget={budget} and accuracy={accuracy}, out of reach: {reachable}")
    best = fits["threshold"].idxmax() if accuracy is None else fits["flops"].idxmin()
    return float(table["threshold"][best])


def _answer(logits: Tensor, rule: str | None) -> Tensor:
    """Scores `[B, C]` at the last of the exits reached, `[k, B, C]`."""
    return vote(logits[-1:]) if rule is None else vote(logits, rule)


def _answers(logits: Tensor, rule: str | None) -> Tensor:
    """Scores `[K, B, C]`: what would be answered at each exit."""
    logits = check_logits(logits)
    return torch.stack([_answer(logits[: k + 1], rule) for k in range(len(logits))])


def _outcomes(logits: Tensor, labels: Tensor, rule: str | None) -> tuple[Tensor, Tensor]:
    """Confidence and rightness `[K, N]` of what would be answered at each exit, on the CPU."""
    answers = _answers(logits, rule).detach()
    confidence, answer = answers.max(-1)
    return confidence.cpu(), (answer == check_labels(labels, answers)).cpu()


def _table(
    confidence: Tensor, right: Tensor, flops: Sequence[int], thresholds: Sequence[float]
) -> pd.DataFrame:
    """The rows of `curve`.

    An image has left by exit k if its largest confidence so far reaches the threshold. Sorted,
    these maxima tell for all thresholds at once how many images have, and how many of them
    are right.
    """
    import pandas as pd

    _check_flops(flops, len(confidence))
    for threshold in thresholds:
        _check_threshold(threshold)
    levels = torch.as_tensor(thresholds, dtype=confidence.dtype)  # compared as in early_exit
    peaks = confidence.cummax(0).values
    peaks[-1] = math.inf  # the deepest exit always answers
    earlier = torch.cat([torch.full_like(peaks[:1], -math.inf), peaks[:-1]])
    ones, images = torch.ones_like(right[0]), right.shape[1]
    costs = torch.tensor([float(cost) for cost in flops], dtype=torch.float64)
    counts, hits = [], []
    for k in range(len(peaks)):
        counts.append(_reach(peaks[k], ones, levels) - _reach(earlier[k], ones, levels))
        hits.append(_reach(peaks[k], right[k], levels) - _reach(earlier[k], right[k], levels))
    table = {"threshold": [float(threshold) for threshold in thresholds]}
    table["accuracy"] = (sum(hits) / images).numpy()
    table["flops"] = (torch.stack(counts, 1) @ costs / images).numpy()
    table |= {f"exit {k}": (n / images).numpy() for k, n in enumerate(counts, 1)}
    return pd.DataFrame(table)


def _reach(peaks: Tensor, amounts: Tensor, levels: Tensor) -> Tensor:
    """For each level, the sum of the amounts `[N]` of the images whose peak `[N]` reaches it."""
    ranked, order = peaks.sort()
    below = torch.cat([torch.zeros(1, dtype=torch.float64), amounts[order].double().cumsum(0)])
    return below[-1] - below[torch.searchsorted(ranked, levels)]


def _check_threshold(threshold: float) -> None:
    if math.isnan(threshold):
        raise ValueError("got the threshold nan: give a number, usually between 0 and 1")


def _check_flops(flops: Sequence[int], exits: int) -> None:
    costs = list(flops)
    if len(costs) != exits or costs != sorted(costs) or not 0 <= costs[0] <= costs[-1] < math.inf:
        raise ValueError(
            f"got the FLOPs {costs} for {exits} exits: give one number for each exit, counted "
            "from the image, so that they never fall"
        )
