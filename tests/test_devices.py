"""The same on every device: the CPU always, CUDA and Apple's GPU where there is one."""

import math

import pytest
import torch
from PIL import Image

from tskd_lib import __main__ as command
from tskd_lib import analysis, anytime, checkpoints, data, losses, recipes, training, voting
from tskd_lib.exits import MultiExitNet, build_student
from tskd_lib.losses import PRESETS
from tskd_lib.recipes import Recipe
from tskd_lib.training import Student, fit, predict


def apples_gpu_works():
    """Whether there is one and it has memory: virtual Macs have one without."""
    try:
        return torch.backends.mps.is_available() and bool(torch.ones(1, device="mps").sum() == 1)
    except RuntimeError:
        return False


MISSING = {
    "cpu": None,
    "cuda": None if torch.cuda.is_available() else "no CUDA device here",
    "mps": None if apples_gpu_works() else "no Apple GPU here",
}
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(reason is not None, reason=str(reason)))
    for name, reason in MISSING.items()
]
CLOSE = {"rtol": 1e-3, "atol": 1e-3}  # GPUs multiply with fewer bits


@pytest.fixture(params=NAMES)
def device(request, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    chosen = torch.device(request.param)
    monkeypatch.setattr(recipes, "default_device", lambda: chosen)
    monkeypatch.setattr(training, "make_accelerator", accelerator_on(chosen))
    return chosen


def accelerator_on(device):
    """`make_accelerator` for this device, whatever the machine would choose."""

    def make(precision):
        from accelerate.state import PartialState

        PartialState._reset_state()
        PartialState(cpu=device.type == "cpu")
        return recipes.make_accelerator(precision)

    return make


@pytest.fixture(autouse=True)
def own_state():
    yield
    from accelerate.state import PartialState

    PartialState._reset_state()


def images(test, device):
    return data.normalise(test.images, test.mean, test.std).to(device)


@pytest.mark.parametrize("precision", ["auto", "fp32", "fp16"])
def test_a_student_learns_and_its_checkpoint_loads_on_the_cpu(
    device, digits, tiny, tmp_path, precision
):
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("fp16 is for GPUs")
    train, test = digits
    recipe = Recipe(epochs=8, batch_size=50, augment=data.Augment(1, False), precision=precision)
    student = tiny()
    rows = fit(
        {"tskd": Student(student, PRESETS["tskd"])}, train, recipe, tiny("deepest", seed=1),
        test, tmp_path, progress=False,
    )["tskd"]  # fmt: skip
    assert next(student.parameters()).device.type == device.type
    assert all(math.isfinite(row["total"]) for row in rows)
    assert rows[-1]["total"] < 0.9 * rows[0]["total"]

    checkpoints.save_network(tmp_path / "network.json", student, train)
    again = checkpoints.load_network(tmp_path / "network.json")[0]
    torch.testing.assert_close(
        predict(again, test, "fp32"), predict(student, test, "fp32"), **CLOSE
    )
    fresh = tiny()  # and the state of the run is taken up where it ended
    assert fit({"tskd": Student(fresh, PRESETS["tskd"])}, train, recipe, tiny("deepest", seed=1),
               folder=tmp_path, progress=False)["tskd"] == rows  # fmt: skip
    torch.testing.assert_close(predict(fresh, test, "fp32"), predict(student, test, "fp32"))


@pytest.mark.parametrize("name", ["resnet8", "resnet10", "alexnet"])
def test_forward_and_gradients_are_those_of_the_cpu(device, digits, tiny, name):
    train, (here, there) = digits[0].subset(range(0, 200, 10)), (tiny(name=name), tiny(name=name))
    teacher = torch.randn(len(train), 10)
    there.to(device, memory_format=data.memory_format(device))
    objective = PRESETS["tskd"]
    terms = objective(*here(images(train, "cpu")), train.labels, teacher)
    others = objective(*there(images(train, device)), train.labels.to(device), teacher.to(device))
    assert terms.keys() == others.keys()
    for key, value in terms.items():
        torch.testing.assert_close(others[key].cpu(), value, **CLOSE)
    terms["total"].backward(), others["total"].backward()
    for (key, one), other in zip(here.named_parameters(), there.parameters(), strict=True):
        size = one.grad.norm()
        assert (other.grad.cpu() - one.grad).norm() <= 0.01 * size + 1e-4, key


def test_the_same_seed_gives_the_same_batches(device, digits):
    augment = data.Augment(2, True, erase=3)

    def some(place):
        generator = torch.Generator().manual_seed(5)
        return list(data.batches(digits[0].to(place), 48, generator, augment))

    for (pixels, labels), (others, other_labels) in zip(some("cpu"), some(device), strict=True):
        assert others.device.type == device.type and torch.equal(other_labels.cpu(), labels)
        torch.testing.assert_close(others.cpu(), pixels, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", [None, *voting.RULES])
def test_early_exit_and_votes_are_those_of_the_cpu(device, digits, tiny, rule):
    network, test = tiny().eval(), digits[1]
    logits = predict(network, test, "fp32")
    told = anytime.simulate(logits, 0.2, rule)
    network.to(device)
    found = anytime.early_exit(network, images(test, device), 0.2, rule)
    assert (found.exits.cpu() == told.exits).float().mean() > 0.95  # ties at the threshold
    same = found.exits.cpu() == told.exits
    torch.testing.assert_close(found.scores.cpu()[same], told.scores[same], **CLOSE)
    if rule is not None:
        there = voting.vote(logits.to(device), rule, weights=[0.2, 0.3, 0.5])
        torch.testing.assert_close(there.cpu(), voting.vote(logits, rule, [0.2, 0.3, 0.5]), **CLOSE)


def test_commands_and_analyses_answer_on_the_device(device, digits, tiny, tmp_path, monkeypatch):
    path, photo, seen = tmp_path / "network.json", tmp_path / "digit.png", set()
    checkpoints.save_network(path, tiny(), digits[0])
    Image.fromarray(digits[1].images[0, 0].numpy()).save(photo)
    advance = MultiExitNet.advance

    def look(self, hidden, k):
        seen.add(hidden.device.type)
        return advance(self, hidden, k)

    monkeypatch.setattr(MultiExitNet, "advance", look)
    monkeypatch.setattr(command, "default_device", lambda: device)
    assert command.main(["evaluate", str(path)]) == 0
    assert command.main(["predict", str(path), str(photo)]) == 0
    analysis.analyse(path, digits[1])
    assert seen == {device.type}


def test_measures_take_logits_of_the_device(device, digits):
    logits = torch.randn(3, 100, 10)
    labels = digits[1].labels
    assert voting.accuracies(logits.to(device), labels) == voting.accuracies(logits, labels)
    there, here = (voting.diversity(z, labels) for z in (logits.to(device), logits))
    for one, other in zip(there, here):
        torch.testing.assert_close(one, other, equal_nan=True)
    weights = voting.fit_weights(logits.to(device), labels)
    torch.testing.assert_close(weights, voting.fit_weights(logits, labels), rtol=1e-3, atol=1e-4)


def test_half_precision_losses_are_finite(device):
    logits = (100 * torch.randn(3, 8, 10)).to(device, torch.float16).requires_grad_()
    labels = torch.arange(8, device=device)
    loss = losses.label_loss(logits, labels) + losses.soft_target_loss(logits, logits[-1], 2.0)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "name, bf16, expected",
    [("cuda", True, "bf16"), ("cuda", False, "fp16"), ("mps", None, "fp32")],
)
def test_auto_precision_follows_the_gpu(monkeypatch, name, bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert recipes.choose_precision("auto", torch.device(name)) == expected


@pytest.mark.parametrize("name, channels_last", [("cpu", True), ("cuda", True), ("mps", False)])
def test_layout_in_training_follows_the_device(monkeypatch, name, channels_last):
    """Batch norm's gradients are wrong on Apple's GPU for channels last."""
    layout = data.memory_format(torch.device(name))
    for module in (data, training):
        monkeypatch.setattr(module, "memory_format", lambda device: layout)
    pixels = torch.randint(256, (20, 8, 8, 3), dtype=torch.uint8)
    train = data.from_arrays("noise", pixels, torch.arange(20) % 2, "ab")
    networks = [build_student("resnet8", 2, (3, 8, 8), exits="deepest") for _ in range(2)]
    seen = []

    def look(module, inputs):
        seen.extend(t.is_contiguous(memory_format=torch.channels_last) for t in inputs)
        seen.append(module.weight.is_contiguous(memory_format=torch.channels_last))

    for network in networks:
        network.backbone.stem[0].register_forward_pre_hook(look)
    student = Student(networks[0], PRESETS["kd"])
    augment = data.Augment(1, True)
    recipe = Recipe(epochs=1, batch_size=10, augment=augment, precision="fp32")
    fit({"kd": student}, train, recipe, networks[1], progress=False)
    assert len(seen) == 8 and set(seen) == {channels_last}
