"""The losses against reference values, numerical gradients and naive loops."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tskd_lib.losses import (
    PRESETS,
    Objective,
    feature_loss,
    label_loss,
    soft_target_loss,
)

K, B, C, D = 3, 4, 10, 8


@pytest.fixture
def reference():
    k = torch.arange(40, dtype=torch.float64).reshape(4, 10)
    m = torch.arange(32, dtype=torch.float64).reshape(4, 8)
    return {
        "student": 3 * torch.sin(k),
        "teacher": 3 * torch.cos(0.7 * k),
        "student features": torch.sin(m),
        "target features": torch.cos(m),
        "labels": torch.tensor([0, 3, 7, 9]),
    }


def outputs(seed=0, exits=K, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    labels = torch.randint(C, (B,), generator=generator)
    return draw(exits, B, C), draw(exits, B, D), labels, draw(B, C)


def test_reference_values(reference):
    soft = soft_target_loss(reference["student"], reference["teacher"], 4.0)
    assert soft.item() == pytest.approx(4.0329601778, abs=1e-10)
    hard = label_loss(reference["student"], reference["labels"])
    assert hard.item() == pytest.approx(2.1505647379, abs=1e-10)
    features = feature_loss(reference["student features"], reference["target features"])
    assert features.item() == pytest.approx(32.2647710282 / 4, abs=1e-10)


def test_the_variants_of_other_code_are_not_ours(reference):
    """The entropy ties our KL to the cross-entropy form; a mean over classes divides by 10."""
    student, teacher = reference["student"] / 4, reference["teacher"] / 4
    target = teacher.softmax(1)
    entropy = -(target * target.log()).sum(1).mean()
    assert entropy.item() == pytest.approx(2.1796376120, abs=1e-10)
    ours = soft_target_loss(reference["student"], reference["teacher"], 4.0)
    cross_entropy = 16 * F.cross_entropy(student, target)
    assert cross_entropy.item() == pytest.approx(38.9071619703, abs=1e-9)
    assert (ours + 16 * entropy).item() == pytest.approx(cross_entropy.item(), abs=1e-9)
    over_classes = 16 * (target * (target.log() - student.log_softmax(1))).mean()
    assert over_classes.item() == pytest.approx(ours.item() / C, abs=1e-10)


def test_exits_are_summed():
    logits, features, labels, teacher = outputs()
    for together, each in [
        (label_loss(logits, labels), [label_loss(z, labels) for z in logits]),
        (soft_target_loss(logits, teacher, 3), [soft_target_loss(z, teacher, 3) for z in logits]),
        (feature_loss(features, features[0]), [feature_loss(f, features[0]) for f in features]),
    ]:
        torch.testing.assert_close(together, sum(each))


def test_label_smoothing_is_torchs():
    logits, _, labels, _ = outputs()
    expected = F.cross_entropy(logits[0], labels, label_smoothing=0.2)
    torch.testing.assert_close(label_loss(logits[0], labels, 0.2), expected)


def test_gradients_match_numerical_ones():
    logits, features, labels, teacher = outputs()
    logits.requires_grad_(), features.requires_grad_()
    shallow, deep = logits[:2].detach().requires_grad_(), logits[2].detach()
    assert torch.autograd.gradcheck(lambda z: label_loss(z, labels, 0.1), logits)
    assert torch.autograd.gradcheck(lambda z: soft_target_loss(z, teacher, 4.0), logits)
    assert torch.autograd.gradcheck(lambda z: soft_target_loss(z, deep, 2.0), shallow)
    assert torch.autograd.gradcheck(lambda f: feature_loss(f, f[-1].detach() * 0), features)


def test_targets_carry_no_gradient():
    logits, features, labels, teacher = outputs()
    logits.requires_grad_(), features.requires_grad_(), teacher.requires_grad_()
    objective = Objective(label=0, label_deepest=0, teacher=1, self_=1, feature=1)
    terms = objective(logits, features, labels, teacher)
    (terms["self"] + terms["feature"]).backward(retain_graph=True)
    assert logits.grad[-1].abs().max() == 0 and logits.grad[:-1].abs().min() > 0
    assert features.grad[-1].abs().max() == 0 and features.grad[:-1].abs().min() > 0
    terms["teacher"].backward()
    assert teacher.grad is None


def test_the_gradient_keeps_its_size_as_the_temperature_grows():
    """T^2 in front: at high T the gradient tends to (z_s - z_t) / C, whatever T is."""
    logits, _, _, teacher = outputs()
    student = (logits[0] - logits[0].mean(1, keepdim=True)).requires_grad_()
    target = teacher - teacher.mean(1, keepdim=True)
    soft_target_loss(student, target, 1e4).backward()
    expected = (student.detach() - target) / (C * B)
    torch.testing.assert_close(student.grad, expected, rtol=1e-3, atol=1e-6)


def test_smoothing_is_that_of_torch_at_every_exit():
    logits, features, labels, _ = outputs()
    terms = Objective(smoothing=0.2)(logits, features, labels)
    each = [F.cross_entropy(exit, labels, label_smoothing=0.2) for exit in logits]
    torch.testing.assert_close(terms["label"], sum(each))


@given(seed=st.integers(0, 999), temperature=st.floats(0.5, 20))
@settings(max_examples=30, deadline=None)
def test_soft_targets_are_a_divergence(seed, temperature):
    logits, _, _, teacher = outputs(seed)
    loss = soft_target_loss(logits[0], teacher, temperature)
    assert loss >= 0
    assert soft_target_loss(teacher, teacher, temperature).abs() < 1e-9
    shifted = soft_target_loss(logits[0] + 5, teacher - 3, temperature)
    torch.testing.assert_close(shifted, loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    logits, features, labels, teacher = outputs(dtype=dtype)
    logits, teacher, features = logits * 300, teacher * 300, features * 300  # exp() overflows
    half = PRESETS["tskd"](logits, features, labels, teacher)
    single = PRESETS["tskd"](logits.float(), features.float(), labels, teacher.float())
    for name, value in half.items():
        assert value.dtype == torch.float32 and value.isfinite()
        torch.testing.assert_close(value, single[name], rtol=0, atol=0)


def naive(objective, logits, features, labels, teacher):
    """The objective as section 2 of the design writes it, exit by exit."""
    total, T = 0.0, objective.temperature
    for i, z in enumerate(logits):
        weight = objective.label_deepest if i == len(logits) - 1 else objective.label
        total += weight * -z.log_softmax(1)[range(B), labels].mean()
        p, q = (teacher / T).softmax(1), (z / T).softmax(1)
        total += objective.teacher * T**2 * (p * (p / q).log()).sum(1).mean()
    for z, f in zip(logits[:-1], features[:-1]):
        p, q = (logits[-1] / T).softmax(1), (z / T).softmax(1)
        total += objective.self_ * T**2 * (p * (p / q).log()).sum(1).mean()
        total += objective.feature * (f - features[-1]).square().sum(1).mean()
    return total


@pytest.mark.parametrize("exits", [1, K])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_equal_the_formula(name, exits):
    values = outputs(exits=exits)
    terms = PRESETS[name](*values)
    torch.testing.assert_close(terms["total"], naive(PRESETS[name], *values))
    torch.testing.assert_close(terms["total"], sum(v for n, v in terms.items() if n != "total"))


def test_which_terms_a_method_has():
    used = {name: set(objective(*outputs())) - {"total"} for name, objective in PRESETS.items()}
    assert used == {
        "baseline": {"label"},
        "kd": {"label", "teacher"},
        "multi_exit": {"label"},
        "byot": {"label", "self", "feature"},
        "tskd": {"label", "teacher", "self", "feature"},
    }
    assert {n for n, o in PRESETS.items() if o.exits == "deepest"} == {"baseline", "kd"}


def test_the_ablation_is_a_loop_over_weights():
    logits, features, labels, teacher = outputs()
    full = PRESETS["tskd"](logits, features, labels, teacher)
    for name, weight in [("teacher", "teacher"), ("self", "self_"), ("feature", "feature")]:
        without = dataclasses.replace(PRESETS["tskd"], **{weight: 0.0})
        terms = without(logits, features, labels, teacher)
        assert name not in terms
        torch.testing.assert_close(terms["total"], full["total"] - full[name])


@pytest.mark.parametrize(
    "weights, message",
    [
        ({"teacher": -0.1}, "teacher must be finite and not negative"),
        ({"label": math.inf}, "label must be finite and not negative"),
        ({"temperature": math.inf}, "temperature must be positive and finite"),
        ({"feature": math.nan}, "feature must be finite and not negative"),
        ({"temperature": 0}, "temperature must be positive"),
        ({"smoothing": 1.0}, "smoothing must be"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        Objective(**weights)


def test_a_teacher_that_does_not_fit_is_refused():
    logits, features, labels, teacher = outputs()
    with pytest.raises(ValueError, match="give teacher_logits"):
        PRESETS["kd"](logits, features, labels)
    with pytest.raises(ValueError, match=r"\(4, 7\)"):
        PRESETS["kd"](logits, features, labels, teacher[:, :7])
