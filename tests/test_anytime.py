"""Early exit: that it skips what it says, and that stored logits tell what it would do."""

import copy
import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tskd_lib.anytime import NEVER, choose_threshold, curve, early_exit, simulate
from tskd_lib.exits import MultiExitNet
from tskd_lib.networks import build
from tskd_lib.voting import RULES, vote

CASES = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
FLOPS = [100, 250, 700]
RULES_OR_NONE = [None, *RULES]


def draw(seed, shape=(3, 50, 4), scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def draw_labels(seed, images=50, classes=4):
    return torch.randint(classes, (images,), generator=torch.Generator().manual_seed(seed + 1))


def mean_cost(exits):
    return torch.tensor(FLOPS)[exits].double().mean().item()


@pytest.fixture(scope="module")
def net():
    """A small network in float64 whose exits differ in confidence from image to image."""
    torch.manual_seed(0)
    net = MultiExitNet(build("resnet8", 4, (1, 8, 8), width=0.5), strength="separable").double()
    net.train()
    batch = 3 * torch.randn(64, 1, 8, 8, dtype=torch.float64)
    for _ in range(20):  # batch-norm statistics that are not the initial ones
        net(batch)
    net.eval()
    with torch.no_grad():
        classifiers = [*net.classifiers, net.backbone.classifier]
        for classifier, logits in zip(classifiers, net(batch).logits, strict=True):
            classifier.weight.mul_(1.5 / logits.std(0).mean())
            classifier.bias.sub_(1.5 / logits.std(0).mean() * logits.mean(0))
    return net


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(40, 1, 8, 8, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def logits(net, images):
    with torch.no_grad():
        return net(images).logits


@contextmanager
def entering(net):
    """Counts the images that enter each stage; a stage that is not run stays absent."""
    counts = {}
    hooks = [
        stage.register_forward_hook(
            lambda _, inputs, __, i=i: counts.__setitem__(i, counts.get(i, 0) + len(inputs[0]))
        )
        for i, stage in enumerate(net.backbone.stages)
    ]
    yield counts
    for hook in hooks:
        hook.remove()


# --- early exit on a network ---


@pytest.mark.parametrize("rule", RULES_OR_NONE)
def test_it_answers_what_the_full_forward_would(net, images, logits, rule):
    seen = set()
    for threshold in (0.0, 0.4, 0.6, 0.8, 0.95, 2.0):
        expected = simulate(logits, threshold, rule)
        result = early_exit(net, images, threshold, rule)
        assert torch.equal(result.exits, expected.exits)
        torch.testing.assert_close(result.scores, expected.scores)
        seen |= set(result.exits.tolist())
    assert seen == {0, 1, 2}


def test_stages_compute_only_the_images_still_waiting(net, images):
    with entering(net) as counts:
        exits = early_exit(net, images, 0.7).exits
    waiting = {k: int((exits >= k).sum()) for k in range(3)}
    assert 40 > waiting[1] > waiting[2] > 0
    assert counts == waiting


def test_stages_that_no_image_waits_for_are_not_run(net, images, logits):
    with entering(net) as counts:
        assert early_exit(net, images, 0.0).exits.tolist() == [0] * 40
    assert counts == {0: 40}
    easy = images[simulate(logits, 0.7).exits < 2]
    with entering(net) as counts:
        early_exit(net, easy, 0.7)
    assert set(counts) == {0, 1}


def test_above_one_is_the_deepest_exit_and_zero_the_first(net, images, logits):
    result = early_exit(net, images, 1.5)
    assert result.exits.tolist() == [2] * 40
    assert not result.scores.requires_grad
    torch.testing.assert_close(result.scores, logits[2].softmax(-1))
    torch.testing.assert_close(early_exit(net, images, 0.0).scores, logits[0].softmax(-1))
    torch.testing.assert_close(early_exit(net, images, 1.5, "logit").scores, vote(logits, "logit"))


def test_answers_come_in_the_order_of_the_images(net, images):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    plain, shuffled = early_exit(net, images, 0.7), early_exit(net, images[order], 0.7)
    assert torch.equal(shuffled.exits, plain.exits[order])
    torch.testing.assert_close(shuffled.scores, plain.scores[order])


def test_every_module_keeps_its_mode_even_after_an_error(net, images):
    net.train()
    net.backbone.stages[1].eval()  # a frozen stage
    modes = [module.training for module in net.modules()]
    running = net.backbone.stem[1].running_mean.clone()
    early_exit(net, images, 0.7)
    with pytest.raises(ValueError):
        early_exit(net, images, 0.7, "median")
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(net.backbone.stem[1].running_mean, running)
    net.eval()


def test_half_precision_and_empty_batches(net, images):
    half = MultiExitNet(build("resnet8", 4, (1, 8, 8), width=0.5), strength="separable")
    half.load_state_dict(net.state_dict())
    result = early_exit(half.bfloat16(), images.bfloat16(), 0.7, "majority")
    assert result.scores.dtype == torch.float32 and result.scores.isfinite().all()
    assert early_exit(net, images[:0], 0.7).scores.shape == (0, 4)


def test_a_network_with_one_exit(images):
    net = MultiExitNet(build("resnet8", 4, (1, 8, 8), width=0.5), exits="deepest").double()
    assert early_exit(net, images, 0.9).exits.tolist() == [0] * 40


# --- simulation ---


def by_hand(logits, threshold, rule):
    exits = []
    for image in range(logits.shape[1]):
        for k in range(len(logits)):
            seen = logits[k : k + 1, image : image + 1] if rule is None else logits[: k + 1]
            scores = vote(seen, rule or "probability")[0 if rule is None else image]
            if scores.max() >= threshold or k == len(logits) - 1:
                exits.append((k, scores.tolist()))
                break
    return exits


@pytest.mark.parametrize("rule", RULES_OR_NONE)
def test_simulation_by_hand(rule):
    logits = draw(0, (3, 20, 4))
    for threshold in (0.0, 0.55, 0.8, 1.1):
        result = simulate(logits, threshold, rule)
        expected = by_hand(logits, threshold, rule)
        assert result.exits.tolist() == [exit for exit, _ in expected]
        np.testing.assert_allclose(result.scores, [scores for _, scores in expected])


def test_a_confidence_equal_to_the_threshold_answers(net, images):
    undecided = copy.deepcopy(net)
    torch.nn.init.zeros_(undecided.classifiers[0].weight)
    torch.nn.init.zeros_(undecided.classifiers[0].bias)
    assert early_exit(undecided, images, 0.25).exits.tolist() == [0] * 40
    logits = torch.zeros(2, 1, 4)
    assert simulate(logits, 0.25).exits.tolist() == [0]
    assert simulate(logits, math.nextafter(0.25, 1) + 1e-6).exits.tolist() == [1]


# --- the curve ---


@CASES
@given(SEEDS, st.sampled_from(RULES_OR_NONE), st.booleans())
def test_the_curve_is_the_simulation(seed, rule, single):
    logits, labels = draw(seed), draw_labels(seed)
    logits = logits.float() if single else logits
    occurring = vote(logits[:1])[:3].amax(-1).tolist()
    above = [math.nextafter(level, 2) for level in occurring]  # in float32 the same number
    thresholds = [0.0, 0.4, 0.6, 0.9, 1.0, NEVER, *occurring, *above]
    table = curve(logits, labels, FLOPS, rule, thresholds)
    assert list(table) == ["threshold", "accuracy", "flops", "exit 1", "exit 2", "exit 3"]
    assert table["threshold"].tolist() == thresholds
    for row in table.to_dict("records"):
        scores, exits = simulate(logits, row["threshold"], rule)
        hits = (scores.argmax(-1) == labels).double()
        assert row["accuracy"] == pytest.approx(hits.mean().item())
        assert row["flops"] == pytest.approx(mean_cost(exits))
        for k in range(3):
            assert row[f"exit {k + 1}"] == pytest.approx((exits == k).double().mean().item())


def test_the_curves_own_thresholds_run_from_the_first_exit_to_the_deepest():
    logits, labels = draw(0, (3, 500, 4)), draw_labels(0, 500)
    table = curve(logits, labels, FLOPS)
    assert 50 < len(table) <= 103
    assert table["threshold"].is_monotonic_increasing and table["flops"].is_monotonic_increasing
    first, last = table.iloc[0], table.iloc[-1]
    assert (first["flops"], first["exit 1"]) == (100, 1)
    assert (last["flops"], last["exit 3"]) == (700, 1)
    right = (logits.argmax(-1) == labels).double().mean(-1)
    assert first["accuracy"] == pytest.approx(right[0].item())
    assert last["accuracy"] == pytest.approx(right[2].item())
    np.testing.assert_allclose(table[["exit 1", "exit 2", "exit 3"]].sum(axis=1), 1)


def test_the_curve_of_a_single_exit():
    table = curve(draw(0, (1, 50, 4)), draw_labels(0), [100])
    assert table["flops"].tolist() == [100, 100]


# --- choosing a threshold ---


@CASES
@given(SEEDS, st.sampled_from(RULES_OR_NONE), st.floats(100, 700))
def test_a_budget_gives_the_largest_threshold_that_fits(seed, rule, budget):
    logits, labels = draw(seed), draw_labels(seed)
    threshold = choose_threshold(logits, labels, FLOPS, budget=budget, rule=rule)

    def cost(level):
        return mean_cost(simulate(logits, level, rule).exits)

    assert cost(threshold) <= budget + 1e-9
    assert threshold == NEVER or cost(math.nextafter(threshold, 2)) > budget


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(RULES_OR_NONE), st.floats(0, 1))
def test_an_accuracy_gives_the_cheapest_threshold_that_reaches_it(seed, rule, part):
    logits, labels = draw(seed, (3, 12, 4)), draw_labels(seed, 12)
    answers = torch.stack(
        [vote(logits[: k + 1] if rule else logits[k : k + 1], rule or "logit") for k in range(3)]
    )
    levels = [0.0, *answers[:2].amax(-1).flatten().tolist(), NEVER]
    table = [
        (mean_cost(exits), (scores.argmax(-1) == labels).double().mean())
        for scores, exits in (simulate(logits, level, rule) for level in levels)
    ]
    accuracies = [reached.item() for _, reached in table]
    target = min(accuracies) + part * (max(accuracies) - min(accuracies))
    threshold = choose_threshold(logits, labels, FLOPS, accuracy=target, rule=rule)
    scores, exits = simulate(logits, threshold, rule)
    assert (scores.argmax(-1) == labels).double().mean() >= target
    cheapest = min(cost for cost, reached in table if reached >= target)
    assert mean_cost(exits) == pytest.approx(cheapest)


def test_budgets_at_both_ends():
    logits, labels = draw(0), draw_labels(0)
    assert choose_threshold(logits, labels, FLOPS, budget=700) == NEVER
    lowest = choose_threshold(logits, labels, FLOPS, budget=100)
    assert simulate(logits, lowest).exits.tolist() == [0] * 50


def test_saturated_confidences_still_allow_the_deepest_exit():
    logits = torch.full((2, 3, 4), -200.0)
    logits[0, :, 0], logits[1, :, 1] = 0, 0  # both exits are certain; only the deepest is right
    labels = torch.ones(3, dtype=torch.int64)
    assert choose_threshold(logits, labels, [1, 2], accuracy=1.0) == NEVER


def test_ten_thousand_images_with_a_hundred_classes_are_exact_and_fast():
    logits, labels = draw(0, (4, 10_000, 100)).float(), draw_labels(0, 10_000, 100)
    threshold = choose_threshold(logits, labels, [1, 2, 3, 4], budget=2.5)
    assert simulate(logits, threshold).exits.double().mean() + 1 == pytest.approx(2.5, abs=1e-3)


def test_targets_out_of_reach_are_refused_with_what_can_be_reached():
    logits, labels = draw(0), draw_labels(0)
    with pytest.raises(ValueError, match="needs a budget of 100 FLOPs"):
        choose_threshold(logits, labels, FLOPS, budget=99)
    best = curve(logits, labels, FLOPS, None, vote(logits[:1]).unique().tolist())["accuracy"].max()
    with pytest.raises(ValueError, match="reaches an accuracy of") as error:
        choose_threshold(logits, labels, FLOPS, accuracy=1.0)
    assert float(str(error.value).split()[-1]) >= best


def test_exactly_one_target():
    logits, labels = draw(0), draw_labels(0)
    for targets in ({}, {"budget": 300, "accuracy": 0.2}):
        with pytest.raises(ValueError, match="exactly one"):
            choose_threshold(logits, labels, FLOPS, **targets)


# --- bad input ---


@pytest.mark.parametrize("flops", [[100, 250], [250, 100, 700], [-1, 2, 3], [1, 2, math.inf], []])
def test_bad_flops_are_refused(flops):
    with pytest.raises(ValueError, match="for 3 exits: give one number for each exit"):
        curve(draw(0), draw_labels(0), flops)


def test_a_threshold_that_is_not_a_number_is_refused(net, images):
    with pytest.raises(ValueError, match="nan"):
        simulate(draw(0), math.nan)
    with pytest.raises(ValueError, match="nan"):
        early_exit(net, images, math.nan)
    with pytest.raises(ValueError, match="nan"):
        curve(draw(0), draw_labels(0), FLOPS, None, [math.nan])


def test_bad_logits_labels_and_rules_are_refused():
    with pytest.raises(ValueError, match="K exits"):
        simulate(torch.zeros(3, 4), 0.5)
    with pytest.raises(ValueError, match="one integer label"):
        curve(draw(0), draw_labels(0)[:7], FLOPS)
    with pytest.raises(ValueError, match="'median'"):
        curve(draw(0), draw_labels(0), FLOPS, "median")
