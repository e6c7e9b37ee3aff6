"""Votes against independent oracles, their invariances, fitted weights and diversity."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tskd_lib import voting
from tskd_lib.voting import (
    RULES,
    accuracies,
    ambiguity,
    diversity,
    fit_weights,
    probabilities,
    vote,
)

CASES = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(2, 7))


def draw(seed, shape, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def labelled(seed=0, exits=4, images=400):
    """Logits that know the label better at each exit, and share some of their noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(5, (images,), generator=generator)
    truth = torch.nn.functional.one_hot(labels, 5)
    strength = torch.linspace(0.5, 2.5, exits)[:, None, None]
    own = draw(seed + 1, (exits, images, 5), 1.5)
    return strength * truth + own + draw(seed + 2, (images, 5), 0.5), labels


def majority_by_hand(logits, weights):
    """The documented rule in plain Python: most weighted votes, then mean probability."""
    answers = []
    p = scipy.special.softmax(logits.numpy(), -1)
    for image in range(logits.shape[1]):
        totals = [0.0] * logits.shape[2]
        for k, weight in enumerate(weights):
            totals[int(np.argmax(logits[k, image].numpy()))] += weight
        mean = np.average(p[:, image], axis=0, weights=weights)
        tied = [c for c, total in enumerate(totals) if total > max(totals) - 1e-9]
        answers.append(max(tied, key=lambda c: mean[c]))
    return answers


# --- oracles ---


def test_probability_vote_is_the_mean_of_scipys_softmax():
    logits = draw(0, (3, 5, 4))
    weights = [0.2, 0.5, 0.3]
    expected = np.average(scipy.special.softmax(logits.numpy(), -1), axis=0, weights=weights)
    np.testing.assert_allclose(vote(logits, weights=weights), expected, rtol=1e-12)
    expected = scipy.special.softmax(logits.numpy(), -1).mean(0)
    np.testing.assert_allclose(vote(logits), expected, rtol=1e-12)


@pytest.mark.parametrize("weights", [None, [0.2, 0.5, 0.3]])
def test_logit_and_geometric_are_one_rule_and_agree_with_two_oracles(weights):
    logits = draw(1, (3, 5, 4)) + draw(2, (3, 5, 1), 20.0)  # with exits on different levels
    p = scipy.special.softmax(logits.numpy(), -1)
    geometric = scipy.stats.gmean(p, axis=0, weights=None if weights is None else _like(p, weights))
    geometric /= geometric.sum(-1, keepdims=True)
    mean_logit = scipy.special.softmax(np.average(logits.numpy(), axis=0, weights=weights), -1)
    np.testing.assert_allclose(geometric, mean_logit, rtol=1e-10)
    np.testing.assert_allclose(vote(logits, "geometric", weights), geometric, rtol=1e-10)
    np.testing.assert_allclose(vote(logits, "logit", weights), mean_logit, rtol=1e-10)
    assert torch.equal(vote(logits, "logit", weights), vote(logits, "geometric", weights))


def _like(array, weights):
    return np.broadcast_to(np.reshape(weights, (-1, 1, 1)), array.shape)


@CASES
@given(SEEDS, SIZES)
def test_majority_agrees_with_scipys_mode_where_the_mode_is_unique(seed, sizes):
    logits = draw(seed, sizes)
    choices = logits.argmax(-1).numpy()
    mode, count = scipy.stats.mode(choices, axis=0)
    tallies = (choices[:, :, None] == np.arange(sizes[2])).sum(0)
    unique = (tallies == count[:, None]).sum(-1) == 1
    answer = vote(logits, "majority").argmax(-1).numpy()
    assert (answer[unique] == mode[unique]).all()


@CASES
@given(SEEDS, SIZES, st.sampled_from([None, [3, 2, 1, 1, 1, 2], [0.1, 0.2, 0.3, 0.4, 0.1, 0.0]]))
def test_majority_agrees_with_the_rule_by_hand(seed, sizes, weights):
    logits = draw(seed, sizes)
    weights = weights and weights[: sizes[0]]
    by_hand = majority_by_hand(logits, weights or [1] * sizes[0])
    assert vote(logits, "majority", weights).argmax(-1).tolist() == by_hand
    assert vote(logits.float(), "majority", weights).argmax(-1).tolist() == by_hand


# --- the tie-break ---


def of_probabilities(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()[:, None]


def test_a_tie_goes_to_the_higher_mean_probability():
    logits = of_probabilities([0.6, 0.4, 1e-9], [0.1, 0.9, 1e-9])
    assert vote(logits, "majority").argmax() == 1
    # three classes with a vote each
    logits = of_probabilities([0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.0, 0.1, 0.9])
    assert vote(logits, "majority").argmax() == 2


def test_majority_scores_are_votes_plus_mean_probability():
    logits = of_probabilities([0.6, 0.3, 0.1], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1])
    expected = [(2 + 0.4) / 4, (1 + 1.4 / 3) / 4, (0.4 / 3) / 4]
    assert vote(logits, "majority")[0].tolist() == pytest.approx(expected)


def test_majority_scores_of_a_unanimous_vote():
    logits = of_probabilities([0.6, 0.4], [0.7, 0.3], [0.8, 0.2])
    assert vote(logits, "majority")[0].tolist() == pytest.approx([3.7 / 4, 0.3 / 4])
    assert vote(torch.zeros(3, 1, 1), "majority").tolist() == [[1]]  # with a single class


def test_majority_scores_of_four_votes_against_two():
    logits = of_probabilities(*[[0.6, 0.4]] * 4, *[[0.3, 0.7]] * 2)
    assert vote(logits, "majority")[0].tolist() == pytest.approx([4.5 / 7, 2.5 / 7])


def test_confidence_never_overturns_votes():
    logits = of_probabilities([0.51, 0.49], [0.51, 0.49], [1e-12, 1.0])
    assert vote(logits, "majority").argmax() == 0
    assert vote(logits).argmax() == 1


@pytest.mark.parametrize("more", [0.001, 0.01, 0.3])
def test_confidence_never_overturns_weights_however_close(more):
    logits = of_probabilities([0.51, 0.49], [1e-12, 1.0])
    assert vote(logits, "majority", [1 + more, 1]).argmax() == 0
    assert vote(logits, "majority", [1, 1]).argmax() == 1
    assert vote(logits.float(), "majority", [1 + more, 1]).argmax() == 0


def test_weights_that_tie_but_for_rounding_are_tied():
    logits = of_probabilities([0.6, 0.4], [0.6, 0.4], [0.01, 0.99])  # 0.1 + 0.2 against 0.3
    assert 0.1 + 0.2 != 0.3
    for numbers in (logits, logits.float()):
        assert vote(numbers, "majority", [0.1, 0.2, 0.3]).argmax() == 1


def test_classes_without_a_vote_are_ordered_by_probability_too():
    logits = of_probabilities([0.5, 0.1, 0.3, 0.1], [0.6, 0.05, 0.05, 0.3])
    assert vote(logits, "majority")[0].argsort(descending=True).tolist() == [0, 3, 2, 1]


def test_equal_probabilities_go_to_the_lowest_class():
    for rule in RULES:
        assert vote(torch.zeros(3, 2, 4), rule).argmax(-1).tolist() == [0, 0]


# --- properties ---


@CASES
@given(SEEDS, SIZES, st.sampled_from(list(RULES)))
def test_rows_sum_to_one_and_are_not_negative(seed, sizes, rule):
    for scale in (1.0, 100.0):
        scores = vote(draw(seed, sizes, scale).float(), rule)
        assert scores.shape == sizes[1:]
        assert (scores >= 0).all()
        torch.testing.assert_close(scores.sum(-1), torch.ones(sizes[1]))


@CASES
@given(SEEDS, SIZES, st.sampled_from(list(RULES)))
def test_the_order_of_the_exits_does_not_matter(seed, sizes, rule):
    logits = draw(seed, sizes)
    order = torch.randperm(sizes[0], generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(vote(logits[order], rule), vote(logits, rule))
    weights = draw(seed, sizes[:1]).abs()
    torch.testing.assert_close(
        vote(logits[order], rule, weights[order]), vote(logits, rule, weights)
    )


@CASES
@given(SEEDS, SIZES, st.sampled_from(list(RULES)))
def test_renaming_the_classes_renames_the_scores(seed, sizes, rule):
    logits = draw(seed, sizes)
    order = torch.randperm(sizes[2], generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(vote(logits[..., order], rule), vote(logits, rule)[:, order])


@CASES
@given(SEEDS, SIZES, st.sampled_from(list(RULES)))
def test_a_constant_added_to_a_row_of_logits_changes_nothing(seed, sizes, rule):
    logits = draw(seed, sizes)
    shifted = logits + draw(seed + 1, (*sizes[:2], 1), 50.0)
    torch.testing.assert_close(vote(shifted, rule), vote(logits, rule))


@CASES
@given(SEEDS, SIZES, st.sampled_from(list(RULES)), st.data())
def test_all_weight_on_one_exit_is_that_exit(seed, sizes, rule, data):
    logits = draw(seed, sizes)
    k = data.draw(st.integers(0, sizes[0] - 1))
    weights = [float(i == k) for i in range(sizes[0])]
    scores = vote(logits, rule, weights)
    assert torch.equal(scores.argmax(-1), logits[k].argmax(-1))
    torch.testing.assert_close(scores, vote(logits[k : k + 1], rule))
    if rule != "majority":
        torch.testing.assert_close(scores, logits[k].softmax(-1))


@CASES
@given(SEEDS, SIZES, st.sampled_from(list(RULES)), st.sampled_from([1e-30, 0.1, 7.0, 1e30]))
def test_only_the_ratio_of_the_weights_counts(seed, sizes, rule, scale):
    logits, weights = draw(seed, sizes), draw(seed + 1, sizes[:1]).abs() + 0.01
    torch.testing.assert_close(vote(logits, rule, scale * weights), vote(logits, rule, weights))
    for equal in (logits.new_full(sizes[:1], scale), [1e38] * sizes[0]):
        scores = vote(logits.float(), rule, equal)
        torch.testing.assert_close(scores, vote(logits.float(), rule))


# --- precision ---


@pytest.mark.parametrize("rule", RULES)
def test_computed_in_float32_at_least(rule):
    logits = draw(3, (4, 6, 5))
    assert vote(logits, rule).dtype == torch.float64
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        scores = vote(logits.to(dtype), rule)
        assert scores.dtype == torch.float32
        exact = vote(logits.to(dtype).double(), rule)
        torch.testing.assert_close(scores.double(), exact, rtol=1e-5, atol=1e-6)
        assert probabilities(logits.to(dtype)).dtype == torch.float32


@pytest.mark.parametrize("rule", RULES)
def test_autocast_does_not_lower_the_precision(rule):
    logits, weights = draw(4, (4, 6, 5)).float(), [0.4, 0.3, 0.2, 0.1]
    with torch.autocast("cpu", torch.bfloat16):
        inside = vote(logits, rule, weights)
    assert torch.equal(inside, vote(logits, rule, weights))


def test_large_float16_logits_do_not_overflow():
    logits = torch.full((3, 1, 2), 60000.0, dtype=torch.float16)
    logits[..., 1] = -60000.0
    for rule in RULES:
        assert vote(logits, rule)[0, 0] == pytest.approx(1.0)


def test_no_images_give_no_scores():
    for rule in RULES:
        assert vote(torch.zeros(3, 0, 4), rule).shape == (0, 4)


# --- fitted weights ---


def mixture_nll(weights, logits, labels):
    p = scipy.special.softmax(logits.numpy(), -1)[:, np.arange(len(labels)), labels.numpy()]
    return -np.log(np.asarray(weights) @ p).mean()


@pytest.mark.parametrize("seed", range(3))
def test_fitted_weights_are_the_constrained_optimum(seed):
    logits, labels = labelled(seed)
    weights = fit_weights(logits, labels)
    best = scipy.optimize.minimize(
        mixture_nll,
        np.full(4, 0.25),
        args=(logits, labels),
        method="SLSQP",
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert best.success
    np.testing.assert_allclose(weights, best.x, atol=1e-4)
    assert (weights > 0.02).sum() >= 2  # the optimum is not just one exit


def test_fitted_weights_are_never_worse_than_one_exit_or_equal_weights():
    for seed in range(5):
        logits, labels = labelled(seed, images=60)
        fitted = mixture_nll(fit_weights(logits, labels), logits, labels)
        for other in [np.full(4, 0.25), *np.eye(4)]:
            assert fitted <= mixture_nll(other, logits, labels) + 1e-9


def test_fitted_weights_sum_to_one_and_serve_in_every_rule():
    logits, labels = labelled()
    weights = fit_weights(logits.bfloat16(), labels)
    assert weights.dtype == torch.float64 and weights.sum().item() == pytest.approx(1, abs=1e-12)
    for rule in RULES:
        assert vote(logits.float(), rule, weights).shape == (400, 5)


def test_fitted_weights_of_equal_exits_are_equal():
    logits, labels = labelled(exits=1)
    assert fit_weights(logits, labels).tolist() == [1.0]
    weights = fit_weights(logits.expand(3, -1, -1), labels)
    torch.testing.assert_close(weights, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_fitting_survives_a_label_held_impossible_by_every_exit():
    logits, labels = labelled()
    logits[:, 0] = -1000.0 * torch.nn.functional.one_hot(labels[0], 5)
    assert fit_weights(logits, labels).isfinite().all()


# --- what each exit and vote reaches ---


@CASES
@given(SEEDS, SIZES, st.sampled_from([None, [3, 2, 1, 1, 1, 2], [0.1, 0.2, 0.3, 0.4, 0.1, 0.0]]))
def test_ambiguity_is_what_the_geometric_vote_gains_whatever_the_label(seed, sizes, weights):
    logits = draw(seed, sizes)
    weights = weights and weights[: len(logits)]
    each = -scipy.special.log_softmax(logits.numpy(), -1)
    voted = -vote(logits, "geometric", weights).log().numpy()
    gained = np.average(each, axis=0, weights=weights) - voted  # of every class, were it the label
    expected = ambiguity(logits, weights).numpy()
    assert (expected >= -1e-12).all()
    np.testing.assert_allclose(gained, np.broadcast_to(expected[:, None], gained.shape), atol=1e-9)


def test_ambiguity_of_equal_exits_is_zero_and_of_sure_opposites_is_large():
    logits = draw(0, (1, 5, 4))
    np.testing.assert_allclose(ambiguity(logits.expand(3, -1, -1)), 0, atol=1e-12)
    np.testing.assert_allclose(ambiguity(logits), 0, atol=1e-12)
    apart = torch.tensor([[[50.0, 0.0]], [[0.0, 50.0]]])
    np.testing.assert_allclose(ambiguity(apart), 25 - np.log(2), rtol=1e-6)
    with pytest.raises(ValueError, match="one finite weight"):
        ambiguity(apart, [1.0])


def test_accuracies_by_loop():
    logits, labels = labelled()
    table = accuracies(logits, labels)
    votes = [f"vote {rule}" for rule in RULES]
    assert list(table) == ["exit 1", "exit 2", "exit 3", "exit 4", *votes, "oracle"]
    choices = logits.argmax(-1).tolist()
    for k in range(4):
        right = [choice == label for choice, label in zip(choices[k], labels.tolist(), strict=True)]
        assert table[f"exit {k + 1}"] == np.mean(right)
    oracle = [any(row[i] == label for row in choices) for i, label in enumerate(labels.tolist())]
    assert table["oracle"] == np.mean(oracle)
    for rule in RULES:
        hits = (vote(logits, rule).argmax(-1) == labels).tolist()
        assert table[f"vote {rule}"] == np.mean(hits)


@CASES
@given(SEEDS, SIZES)
def test_no_exit_or_majority_beats_the_oracle_and_one_exit_is_every_vote(seed, sizes):
    logits = draw(seed, sizes)
    labels = torch.randint(sizes[2], sizes[1:2], generator=torch.Generator().manual_seed(seed))
    table = accuracies(logits, labels)
    assert all(table[f"exit {k + 1}"] <= table["oracle"] for k in range(sizes[0]))
    assert table["vote majority"] <= table["oracle"]  # the other votes may find a second choice
    assert len(set(accuracies(logits[:1], labels).values())) == 1


# --- diversity ---


def pairs_by_hand(right):
    """Kuncheva and Whitaker's counts, one image at a time."""
    exits = len(right)
    q, disagreement = np.zeros((exits, exits)), np.zeros((exits, exits))
    for i in range(exits):
        for j in range(exits):
            n = {(a, b): 0 for a in (0, 1) for b in (0, 1)}
            for a, b in zip(right[i], right[j], strict=True):
                n[int(a), int(b)] += 1
            disagreement[i, j] = (n[0, 1] + n[1, 0]) / sum(n.values())
            q[i, j] = (n[1, 1] * n[0, 0] - n[0, 1] * n[1, 0]) / (
                n[1, 1] * n[0, 0] + n[0, 1] * n[1, 0]
            )
    return disagreement, q


def test_diversity_against_loops_and_numpy():
    logits, labels = labelled()
    right = (logits.argmax(-1) == labels).numpy()
    result = diversity(logits, labels)
    disagreement, q = pairs_by_hand(right)
    np.testing.assert_allclose(result.disagreement, disagreement, rtol=1e-12)
    np.testing.assert_allclose(result.q_statistic, q, rtol=1e-12)
    np.testing.assert_allclose(result.error_correlation, np.corrcoef(~right), rtol=1e-9)
    for matrix in result:
        torch.testing.assert_close(matrix, matrix.T)


def outcomes(*rows):
    """Logits of exits that are right where a row has a 1; every label is class 0."""
    right = torch.tensor(rows, dtype=torch.float64)
    return torch.stack([right, 1 - right], -1), torch.zeros(len(rows[0]), dtype=torch.int64)


def test_diversity_at_its_ends():
    result = diversity(*outcomes([1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [1, 1, 0, 0]))
    assert result.disagreement[0].tolist() == [0, 1, 0.5, 0]
    assert result.q_statistic[0].tolist() == [1, -1, 0, 1]
    assert result.error_correlation[0].tolist() == [1, -1, 0, 1]


def test_diversity_is_nan_where_there_is_nothing_to_compare():
    result = diversity(*outcomes([1, 1, 1, 1], [0, 1, 0, 1]))  # the first exit never errs
    assert result.q_statistic.isnan().tolist() == [[True, True], [True, False]]
    assert result.error_correlation.isnan().tolist() == [[True, True], [True, False]]
    assert result.disagreement.tolist() == [[0, 0.5], [0.5, 0]]


# --- bad input ---


@pytest.mark.parametrize(
    "weights",
    [[1.0], [1.0, 1.0, 1.0], [1.0, -0.1], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]],
)
def test_bad_weights_are_refused(weights):
    with pytest.raises(ValueError, match="2 exits: give one finite weight"):
        vote(torch.zeros(2, 3, 4), "probability", weights)


@pytest.mark.parametrize(
    "logits",
    [torch.zeros(3, 4), torch.zeros(0, 3, 4), torch.zeros(2, 3, 0), torch.ones(2, 3, 4).long()],
)
def test_bad_logits_are_refused(logits):
    labels = torch.zeros(3, dtype=torch.int64)
    for function in (
        vote,
        *(lambda z, f=f: f(z, labels) for f in (fit_weights, accuracies, diversity)),
    ):
        with pytest.raises(ValueError, match="K exits, B images, C classes"):
            function(logits)


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'median'.*majority, probability, logit, geometric"):
        vote(torch.zeros(2, 3, 4), "median")


@pytest.mark.parametrize(
    "labels, said",
    [
        (torch.zeros(2, dtype=torch.int64), "one integer label for each"),
        (torch.zeros(3), "one integer label for each"),
        (torch.tensor([0, 1, 4]), "from 0 to 4 for 4 classes"),
        (torch.tensor([0, -1, 2]), "from -1 to 2 for 4 classes"),
    ],
)
def test_bad_labels_are_refused(labels, said):
    for function in (fit_weights, accuracies, diversity):
        with pytest.raises(ValueError, match=said):
            function(torch.zeros(2, 3, 4), labels)


def test_no_images_are_refused_where_a_mean_is_asked_for():
    with pytest.raises(ValueError, match="at least one image"):
        voting.accuracies(torch.zeros(2, 0, 4), torch.zeros(0, dtype=torch.int64))
