"""Metrics against scikit-learn, loops and hand-computed cases; statistics against scipy."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tskd_lib.metrics import (
    accuracy,
    calibration,
    fit_temperature,
    interval,
    nll,
    paired,
    prediction_interval,
)
from tskd_lib.voting import probabilities, vote

CASES = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


def draw(seed=0, shape=(200, 6), scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def draw_labels(seed=0, images=200, classes=6):
    return torch.randint(classes, (images,), generator=torch.Generator().manual_seed(seed + 1))


# --- accuracy ---


@pytest.mark.parametrize("top", [1, 3, 5])
def test_accuracy_against_sklearn(top):
    scores, labels = draw(), draw_labels()
    expected = sklearn.metrics.top_k_accuracy_score(labels, scores, k=top, labels=range(6))
    assert accuracy(scores, labels, top).item() == pytest.approx(expected, abs=1e-15)


def test_accuracy_of_all_exits_at_once():
    scores, labels = draw(0, (3, 200, 6)), draw_labels()
    result = accuracy(scores, labels, 2)
    assert result.dtype == torch.float64
    assert result.tolist() == [accuracy(exit, labels, 2).item() for exit in scores]


def test_accuracy_breaks_ties_by_the_lower_class():
    scores = torch.zeros(4, 4)
    assert accuracy(scores, torch.tensor([0, 1, 2, 3])).item() == 0.25
    assert accuracy(scores, torch.tensor([0, 1, 2, 3]), 3).item() == 0.75


def test_accuracy_is_an_exact_fraction():
    labels = torch.zeros(10_000, dtype=torch.int64)
    scores = torch.zeros(10_000, 2)
    scores[7324:, 1] = 1
    assert accuracy(scores, labels).item() == 0.7324


# --- negative log-likelihood ---


def test_nll_against_sklearn_and_torch():
    logits, labels = draw(), draw_labels()
    p = probabilities(logits)
    expected = sklearn.metrics.log_loss(labels, p.numpy(), labels=range(6))
    assert nll(p, labels).item() == pytest.approx(expected, rel=1e-12)
    entropy = torch.nn.functional.cross_entropy(logits, labels)
    assert nll(p, labels).item() == pytest.approx(entropy.item(), rel=1e-12)


def test_nll_of_all_exits_at_once():
    p, labels = draw(0, (3, 200, 6)).softmax(-1), draw_labels()
    assert nll(p, labels).tolist() == [nll(exit, labels).item() for exit in p]


def test_nll_of_an_impossible_label_is_finite():
    p = torch.tensor([[1.0, 0.0]])
    assert nll(p, torch.tensor([1])).item() == pytest.approx(-math.log(2**-126))
    assert nll(p, torch.tensor([0])).item() == 0


def test_nll_keeps_small_probabilities():
    p = torch.tensor([[1e-20, 1.0]])
    assert nll(p, torch.tensor([0])).item() == pytest.approx(20 * math.log(10), rel=1e-6)


# --- calibration ---


def ece_by_hand(p, labels, bins):
    """Guo et al. 2017, equation 3, one bin and one image at a time."""
    edges = np.linspace(0, 1, bins + 1)
    total = 0.0
    for m in range(bins):
        inside = []
        for row, label in zip(p.numpy(), labels.tolist(), strict=True):
            low = edges[m] < row.max() or (m == 0 and row.max() == 0)
            if low and row.max() <= edges[m + 1]:
                inside.append((row.max(), row.argmax() == label))
        if inside:
            confidence, right = np.mean(inside, axis=0)
            total += len(inside) / len(labels) * abs(right - confidence)
    return total


@CASES
@given(SEEDS, st.sampled_from([1, 2, 10, 15]))
def test_ece_by_loop(seed, bins):
    p, labels = draw(seed, (60, 4)).softmax(-1), draw_labels(seed, 60, 4)
    assert calibration(p, labels, bins).ece == pytest.approx(
        ece_by_hand(p, labels, bins), abs=1e-12
    )


def test_calibration_by_hand():
    p = torch.tensor([[0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.05, 0.95]], dtype=torch.float64)
    result = calibration(p, torch.tensor([0, 1, 1, 1]), bins=4)
    # (0.5, 0.75]: 0.6 right and 0.7 right; (0.75, 1]: 0.8 wrong and 0.95 right
    assert result.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert result.count.tolist() == [0, 0, 2, 2]
    assert result.confidence[2:].tolist() == pytest.approx([0.65, 0.875])
    assert result.accuracy[2:].tolist() == [1, 0.5]
    assert result.confidence[:2].isnan().all() and result.accuracy[:2].isnan().all()
    assert result.ece == pytest.approx(0.5 * 0.35 + 0.5 * 0.375)


def test_confidences_on_the_edges():
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.75, 0.25]])
    result = calibration(p, torch.zeros(3, dtype=torch.int64), bins=4)
    assert result.count.tolist() == [0, 1, 1, 1]
    assert result.ece == pytest.approx((0 + 0.5 + 0.25) / 3)


def test_the_smallest_confidences_fall_into_the_first_bin():
    p = torch.full((3, 1000), 1e-3)
    assert calibration(p, torch.zeros(3, dtype=torch.int64)).count.tolist() == [3] + [0] * 14


def test_certain_and_always_right_or_wrong():
    p = torch.eye(3)
    assert calibration(p, torch.arange(3)).ece == 0
    assert calibration(p, (torch.arange(3) + 1) % 3).ece == 1


def test_votes_are_probabilities():
    logits, labels = draw(0, (3, 200, 6)).bfloat16(), draw_labels()
    for rule in ("majority", "probability", "logit"):
        assert 0 <= calibration(vote(logits, rule), labels).ece <= 1
        assert nll(vote(logits, rule), labels) > 0


# --- over seeds ---


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_temperature_is_that_which_the_labels_were_drawn_with(true):
    logits = draw(2, (50_000, 6), 2 * true)
    generator = torch.Generator().manual_seed(3)
    labels = torch.multinomial((logits / true).softmax(-1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.02)


@CASES
@given(SEEDS)
def test_no_other_temperature_makes_the_labels_more_likely(seed):
    logits, labels = draw(seed), draw_labels(seed)
    logits[range(200), labels] += 1.0
    fitted = fit_temperature(logits, labels)
    best = nll(probabilities(logits / fitted), labels)
    for factor in (0.5, 0.99, 1.01, 2.0):
        assert best < nll(probabilities(logits / (fitted * factor)), labels)


def test_temperature_stays_within_its_bounds_and_wants_logits():
    labels = draw_labels()
    right = 0.1 * torch.nn.functional.one_hot(labels, 6).double()
    assert fit_temperature(right, labels) == pytest.approx(0.01, rel=0.01)
    assert fit_temperature(-right, labels) == pytest.approx(100, rel=0.01)
    with pytest.raises(ValueError, match="give floating-point logits"):
        fit_temperature(right.int(), labels)


def test_interval_against_scipy():
    values = [0.61, 0.64, 0.6, 0.66, 0.63]
    for level in (0.5, 0.9, 0.95):
        result = interval(values, level)
        expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(level)
        assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert result.mean == pytest.approx(np.mean(values)) and result.n == 5
    assert result.sd == pytest.approx(np.std(values, ddof=1))


def test_interval_by_hand():
    result = interval([1.0, 3.0])  # mean 2, sd sqrt(2), standard error 1, t = 12.7062 with n = 2
    assert (result.low, result.high) == pytest.approx((2 - 12.7062047, 2 + 12.7062047))


def test_interval_of_equal_values_has_no_width():
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0, 0.5, 0.5, 3)


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    samples = np.random.default_rng(0).normal(3, 2, (1500, 4))
    held = [low <= 3 <= high for _, _, low, high, _ in (interval(row, 0.8) for row in samples)]
    assert np.mean(held) == pytest.approx(0.8, abs=0.03)  # three standard errors


def test_paired_against_scipy():
    rng = np.random.default_rng(0)
    b = rng.normal(0.6, 0.05, 12)
    a = b + rng.normal(0.01, 0.01, 12)
    result = paired(a, b, 0.9)
    test = scipy.stats.ttest_rel(a, b)
    expected = test.confidence_interval(0.9)
    assert (result.t_low, result.t_high) == pytest.approx((expected.low, expected.high))
    assert result.p == pytest.approx(test.pvalue)
    assert (result.mean, result.n) == (pytest.approx((a - b).mean()), 12)
    assert result.sd == pytest.approx((a - b).std(ddof=1))
    draws = rng.choice(a - b, (20_000, 12)).mean(1)
    low, high = np.quantile(draws, [0.05, 0.95])
    assert (result.bootstrap_low, result.bootstrap_high) == pytest.approx((low, high), abs=2e-4)
    assert paired([2, 4, 9], [1, 4, 7]).text() == "+1.0 (-1.5 to +3.5)"


def test_paired_is_reproducible_and_changes_sign_with_the_order():
    a, b = [0.61, 0.64, 0.6], [0.6, 0.61, 0.62]
    many = np.random.default_rng(0).normal(size=(2, 12))
    assert paired(*many) == paired(*many)
    assert paired(*many, seed=1)[:5] == paired(*many)[:5]
    assert paired(*many, seed=1)[5:7] != paired(*many)[5:7]
    there, back = paired(a, b), paired(b, a)
    assert (back.mean, back.t_low, back.t_high) == (-there.mean, -there.t_high, -there.t_low)
    assert back.p == there.p


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_equal_differences_have_no_width_and_no_p_value(shift):
    b = np.array([0.61, 0.64, 0.6])
    result = paired(b + shift, b)
    assert result.sd == 0 and math.isnan(result.p)
    ends = (result.t_low, result.t_high, result.bootstrap_low, result.bootstrap_high)
    assert ends == pytest.approx((shift,) * 4)


@pytest.mark.filterwarnings("error")
def test_two_seeds_are_enough():
    result = paired([0.6, 0.7], [0.5, 0.5])
    assert (result.bootstrap_low, result.bootstrap_high) == pytest.approx((0.1, 0.2))
    assert result.n == 2 and 0 < result.p < 1


@CASES
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), SEEDS)
def test_paired_is_the_interval_of_the_differences(b, seed):
    a = np.asarray(b) + np.random.default_rng(seed).normal(size=len(b))
    result, alone = paired(a, b), interval(a - np.asarray(b))
    assert (result.mean, result.sd, result.t_low, result.t_high, result.n) == pytest.approx(alone)
    change = a - np.asarray(b)
    assert change.min() - 1e-9 <= result.bootstrap_low <= result.bootstrap_high
    assert result.bootstrap_high <= change.max() + 1e-9


# --- bad input ---


@pytest.mark.parametrize("measure", [nll, calibration])
def test_logits_are_refused_where_probabilities_are_asked_for(measure):
    for scores in (draw(), torch.rand(200, 6), torch.tensor([[1.5, -0.5]]), draw() * math.nan):
        with pytest.raises(ValueError, match="no probabilities.*voting.probabilities"):
            measure(scores, draw_labels())


@pytest.mark.parametrize("measure", [accuracy, nll, calibration])
def test_bad_labels_are_refused(measure):
    p = draw().softmax(-1)
    with pytest.raises(ValueError, match="one integer label"):
        measure(p, draw_labels()[:5])
    with pytest.raises(ValueError, match="for 6 classes"):
        measure(p, draw_labels() + 1)
    with pytest.raises(ValueError, match="at least one image"):
        measure(p[:0], draw_labels()[:0])


def test_bad_shapes_bins_and_tops_are_refused():
    p, labels = draw().softmax(-1), draw_labels()
    for top in (0, 7):
        with pytest.raises(ValueError, match=f"top={top} for 6 classes"):
            accuracy(p, labels, top)
    with pytest.raises(ValueError, match="floating-point"):
        accuracy(labels, labels)
    with pytest.raises(ValueError, match="at least one bin"):
        calibration(p, labels, 0)
    with pytest.raises(ValueError, match=r"\[B, C\]"):
        calibration(p[None], labels)


@pytest.mark.parametrize(
    "values", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")], [[1.0, 2.0]]]
)
def test_too_few_or_unusable_seeds_are_refused(values):
    with pytest.raises(ValueError, match="at least two finite"):
        interval(values)
    with pytest.raises(ValueError, match="at least two finite"):
        paired(values, values)


def test_bad_levels_and_unequal_seeds_are_refused():
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match="level between 0 and 1"):
            interval([1.0, 2.0], level)
    with pytest.raises(ValueError, match="got 2 and 3 values"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])


def test_prediction_bounds_hold_the_mean_of_new_seeds_as_often_as_promised():
    draws = np.random.default_rng(0).normal(size=(4000, 12))
    for new in (1, 3):
        bounds = [prediction_interval(row[:8], new, 0.9) for row in draws]
        means = draws[:, 8 : 8 + new].mean(1)
        inside = [low <= mean <= high for (low, high), mean in zip(bounds, means)]
        assert np.mean(inside) == pytest.approx(0.9, abs=0.015)


def test_prediction_of_infinitely_many_seeds_is_the_interval_of_the_mean():
    values = [91.0, 93.5, 92.2, 90.8]
    low, high = prediction_interval(values, 10**12)
    assert (low, high) == pytest.approx(interval(values)[2:4])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        prediction_interval(values, 0)
