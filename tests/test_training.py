"""The training loop: it learns, it shares fairly, it survives, and it says what went wrong."""

import dataclasses
import math
import os
import platform
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tskd_lib import checkpoints, data, recipes, training
from tskd_lib.losses import PRESETS, Objective
from tskd_lib.recipes import Recipe, learning_rate
from tskd_lib.training import Student, TrainingDiverged, fit, predict

RECIPE = Recipe(
    epochs=2, batch_size=50, learning_rate=0.05, augment=data.Augment(1, False), precision="fp32"
)


def fit_quietly(*arguments, **options):
    return fit(*arguments, progress=False, **options)


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def test_a_teacher_and_a_student_learn(digits, tiny):
    train, test = digits
    recipe = dataclasses.replace(RECIPE, epochs=20, learning_rate=0.1, precision="auto")
    teacher = tiny("deepest", seed=1)
    history = fit_quietly({"teacher": Student(teacher, PRESETS["baseline"])}, train, recipe)
    student = tiny()
    history |= fit_quietly(
        {"tskd": Student(student, PRESETS["tskd"])}, train, recipe, teacher, test
    )
    for rows in history.values():
        assert rows[-1]["total"] < 0.7 * rows[0]["total"]
    accuracy = (predict(student, test).argmax(-1) == test.labels).float().mean(1)
    assert accuracy[-1] > 0.5
    assert history["tskd"][-1]["accuracy"] == pytest.approx(accuracy.tolist())
    assert [row["epoch"] for row in history["tskd"]] == list(range(1, 21))
    assert {"label", "teacher", "self", "feature", "total"} < set(history["tskd"][0])
    assert history["tskd"][-1]["lr"] < 0.01 < history["tskd"][3]["lr"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_training_reuses_the_memory_of_freed_tensors():
    code = """
import resource, torch
from tskd_lib.bench import Workload
work = Workload(small=("resnet8", 0.25), batch_size=2)
work.trainer(work.small, work.images(), "baseline")
def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(page_faults() for _ in range(10)))  # the first ones can fall between other blocks
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 100  # of 16,384 where the memory comes anew, 544 with huge pages


def test_a_first_step_that_fp16_skips_leaves_the_momentum_at_zero(digits, tiny):
    student = Student(tiny("deepest"), PRESETS["baseline"])
    accelerator = recipes.make_accelerator("fp32")
    run = training.Run({"one": student}, digits[0], RECIPE, None, None, accelerator)
    optimizer, scaler = run.optimizers["one"].optimizer, torch.amp.GradScaler("cpu")
    before = weights(student.network)
    for gradient in (math.inf, 0.0):
        for parameter in student.network.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        scaler.scale(torch.zeros(()))
        scaler.step(optimizer)
        scaler.update()
        moved = [(p - before[n]).abs().max() for n, p in student.network.named_parameters()]
        assert max(moved) < 0.1 and scaler.get_scale() < 2**16


def test_training_leaves_the_draws_of_its_caller_alone(digits, tiny):
    torch.manual_seed(3)
    expected = torch.rand(2, 5)
    torch.manual_seed(3)
    found = [torch.rand(5)]
    students = {"one": Student(tiny("deepest"), PRESETS["baseline"])}
    fit_quietly(students, digits[0], RECIPE)
    training.pace(students, digits[0], RECIPE, seconds=0.0)
    assert torch.equal(torch.stack([*found, torch.rand(5)]), expected)


def test_students_side_by_side_end_as_if_alone(digits, tiny):
    train, teacher = digits[0], tiny("deepest", seed=1)

    def students(names):
        return {n: Student(tiny(PRESETS[n].exits), PRESETS[n]) for n in names}

    together = students(PRESETS)
    fit_quietly(together, train, RECIPE, teacher)
    for name in ("kd", "tskd"):
        alone = students([name])
        fit_quietly(alone, train, RECIPE, teacher)
        assert_same_weights(weights(alone[name].network), weights(together[name].network))


@pytest.mark.parametrize("methods, passes", [(("kd", "tskd"), 8), (("baseline", "byot"), 0)])
def test_students_share_one_pass_of_the_teacher(digits, tiny, methods, passes):
    teacher, seen = tiny("deepest", seed=1), []
    teacher.backbone.stem.register_forward_hook(lambda *_: seen.append(teacher.training))
    students = {m: Student(tiny(PRESETS[m].exits), PRESETS[m]) for m in methods}
    fit_quietly(students, digits[0], RECIPE, teacher)
    assert seen == passes * [False]


def test_students_see_the_augmented_images(digits, tiny):
    @dataclasses.dataclass(frozen=True)
    class Black(data.Augment):
        def __call__(self, images, generator):
            return torch.zeros_like(super().__call__(images, generator))

    train, network, seen = digits[0], tiny("deepest"), []
    network.backbone.stem.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    recipe = dataclasses.replace(RECIPE, augment=Black(1, False))
    fit_quietly({"one": Student(network, PRESETS["baseline"])}, train, recipe)
    black = data.normalise(torch.zeros_like(train.images[:50]), train.mean, train.std)
    assert len(seen) == 8
    for images in seen:
        torch.testing.assert_close(images, black)


@pytest.mark.parametrize("precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_the_convolutions(digits, tiny, precision, dtype):
    network, seen = tiny("deepest"), []
    first = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda _, given, output: seen.append(output.dtype))
    recipe = dataclasses.replace(RECIPE, epochs=1, precision=precision)
    fit_quietly({"one": Student(network, PRESETS["baseline"])}, digits[0], recipe)
    predict(network, digits[1], precision)
    assert len(seen) == 5 and set(seen) == {dtype}


def test_dropout_of_one_student_is_not_that_of_another(digits, tiny):
    def student():
        network = tiny("deepest")
        network.backbone.pool.append(torch.nn.Dropout())
        return Student(network, PRESETS["baseline"])

    together = {"first": student(), "second": student()}
    fit_quietly(together, digits[0], RECIPE)
    alone = student()
    fit_quietly({"second": alone}, digits[0], RECIPE)
    assert_same_weights(weights(alone.network), weights(together["second"].network))
    other = student()
    fit_quietly({"other": other}, digits[0], dataclasses.replace(RECIPE, seed=1))
    assert not torch.equal(
        other.network.backbone.classifier.weight, alone.network.backbone.classifier.weight
    )


def test_every_step_and_seed_has_its_own_images_and_draws(digits, tiny):
    images, draws = set(), set()

    def look(_, given):
        images.add(given[0].contiguous().numpy().tobytes())
        draws.add(tuple(torch.rand(3).tolist()))

    for seed in range(2):
        network = tiny("deepest")
        network.backbone.stem.register_forward_pre_hook(look)
        recipe = dataclasses.replace(RECIPE, seed=seed)
        fit_quietly({"one": Student(network, PRESETS["baseline"])}, digits[0], recipe)
    assert len(images) == len(draws) == 2 * 2 * 4  # seeds, epochs, batches


def test_the_deepest_exit_of_a_teacher_teaches(digits, tiny):
    ends = []
    for exits in ("deepest", "all"):  # of the same backbone
        student, teacher = Student(tiny("deepest"), PRESETS["kd"]), tiny(exits, seed=1)
        fit_quietly({"kd": student}, digits[0], RECIPE, teacher)
        ends.append(weights(student.network))
    assert_same_weights(*ends)


def test_progress_shows_the_terms(digits, tiny, capsys):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    fit({"byot": Student(tiny(), PRESETS["byot"])}, digits[0], recipe)
    said = capsys.readouterr().err
    assert f"{recipes.default_device().type} fp32, epoch 1/1" in said
    assert all(f"{term}=" in said for term in ("label", "self", "feature", "total"))
    students = {name: Student(tiny(), PRESETS[name]) for name in ("byot", "multi_exit")}
    fit(students, digits[0], recipe)
    said = capsys.readouterr().err
    assert all(f"{name}=" in said for name in students) and "feature=" not in said


def test_one_step_is_sgd_with_nesterov_momentum(digits, tiny):
    train = digits[0].subset(range(20))
    recipe = dataclasses.replace(
        RECIPE, epochs=1, batch_size=20, weight_decay=0.1, schedule="cosine", augment=None
    )
    network, reference = tiny("deepest"), tiny("deepest")
    fit_quietly({"one": Student(network, PRESETS["baseline"])}, train, recipe)
    images = data.normalise(train.images, train.mean, train.std)
    logits = reference.train()(images).logits[-1]
    torch.nn.functional.cross_entropy(logits, train.labels).backward()
    with torch.no_grad():
        for parameter in reference.parameters():
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            gradient = parameter.grad + decay * parameter
            # the first Nesterov step: gradient + momentum * gradient
            parameter -= recipe.learning_rate * (1 + recipe.momentum) * gradient
    for (name, ours), expected in zip(network.named_parameters(), reference.parameters()):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5, msg=name)


def test_clipping_bounds_the_step(digits, tiny):
    recipe = dataclasses.replace(
        RECIPE, epochs=1, batch_size=200, momentum=0, weight_decay=0, schedule="cosine", clip=1e-3
    )
    network = tiny("deepest")
    before = weights(network)
    fit_quietly({"one": Student(network, PRESETS["baseline"])}, digits[0], recipe)
    moved = [(p - before[name]).norm() for name, p in network.named_parameters()]
    step = torch.stack(moved).norm().item()
    assert step == pytest.approx(recipe.learning_rate * recipe.clip, rel=1e-2)


def test_fitting_leaves_no_wrapper_behind(digits, tiny):
    network = tiny("deepest")
    before = network.forward
    recipe = dataclasses.replace(RECIPE, epochs=1, precision="bf16")
    fit_quietly({"one": Student(network, PRESETS["baseline"])}, digits[0], recipe)
    assert network.forward == before
    other = dataclasses.replace(RECIPE, epochs=1, precision="fp32")
    fit_quietly({"one": Student(network, PRESETS["baseline"])}, digits[0], other)


def test_what_was_trained_before_trains_and_teaches_in_the_precision_asked_for(digits, tiny):
    recipe = dataclasses.replace(RECIPE, epochs=1, precision="bf16")
    teacher, student = tiny("deepest"), tiny("deepest", seed=1)
    seen = {}
    for name, network in {"teacher": teacher, "student": student}.items():
        seen[name] = found = set()
        network.backbone.stages[0].register_forward_hook(
            lambda module, images, maps, found=found: found.add(maps.dtype)
        )
    fit_quietly({"one": Student(teacher, PRESETS["baseline"])}, digits[0], recipe)
    for _ in range(2):
        fit_quietly({"one": Student(student, PRESETS["kd"])}, digits[0], recipe, teacher)
    assert seen == {"teacher": {torch.bfloat16}, "student": {torch.bfloat16}}


def test_a_state_that_is_refused_leaves_no_wrapper_behind(digits, tiny, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1, precision="bf16")
    (tmp_path / "state.json").write_text("{}")
    network = tiny("deepest")
    before = network.forward
    student = {"one": Student(network, PRESETS["baseline"])}
    with pytest.raises(checkpoints.CheckpointError):
        fit_quietly(student, digits[0], recipe, folder=tmp_path)
    assert network.forward == before


@given(steps=st.integers(2, 500), schedule=st.sampled_from(recipes.SCHEDULES))
@settings(max_examples=50, deadline=None)
def test_schedules(steps, schedule):
    recipe = Recipe(schedule=schedule, learning_rate=0.3)
    rates = [learning_rate(recipe, step, steps) for step in range(steps)]
    top = rates.index(max(rates))
    assert all(0 < rate <= 0.3 for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if schedule == "cosine":
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.3)
        torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for rate in rates:
            assert rate == pytest.approx(torchs.get_last_lr()[0], abs=1e-9)
            optimizer.step(), torchs.step()
    else:
        assert top == pytest.approx(steps / 4, abs=1)


def test_predict_is_the_networks_own_answer(digits, tiny):
    network, test = tiny().train(), digits[1]
    logits = predict(network, test, "fp32", batch_size=33)
    assert network.training and logits.shape == (3, 100, 10)
    with torch.inference_mode():
        images = data.normalise(test.images, test.mean, test.std)
        torch.testing.assert_close(logits, network.eval()(images).logits, rtol=1e-4, atol=1e-4)
    network.train()
    network.backbone.eval()
    modes = [module.training for module in network.modules()]
    half = predict(network, test, "bf16")
    assert [module.training for module in network.modules()] == modes
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, logits, rtol=0.1, atol=0.2)


# --- interruption -------------------------------------------------------------------------

SCRIPT = """
import os, random, signal, sys, time
import accelerate, safetensors.torch, torch._dynamo  # what a child would import anew
from pathlib import Path
from tskd_lib import data, training
from tskd_lib.exits import build_student
from tskd_lib.losses import PRESETS
from tskd_lib.recipes import Recipe
from tskd_lib.training import Student, fit

training.SAVE_EVERY = 0
train = data.per_class(data.load("digits")[0], 12, 0)
recipe = Recipe(epochs=8, batch_size=30, learning_rate=0.05, augment=data.Augment(1, False))

def run(folder):
    students = {name: Student(build_student("resnet8", 10, (1, 16, 16), width=0.25,
                                            exits=PRESETS[name].exits), PRESETS[name])
                for name in ("baseline", "byot")}
    fit(students, train, recipe, folder=folder, progress=False)

def start(folder):  # this process never trains: a GPU's threads would not survive the fork
    child = os.fork()
    if child == 0:
        run(Path(sys.argv[1], folder))
        os._exit(0)
    return child

began = time.monotonic()
os.waitpid(start("whole"), 0)
epoch, kills, status = (time.monotonic() - began) / recipe.epochs, 0, signal.SIGKILL
while status == signal.SIGKILL:
    child = start("killed")
    time.sleep(random.uniform(0.2, 1.5) * epoch * 1.1**kills)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    kills += status == signal.SIGKILL
print(kills, status)
"""


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_states_are_kept_as_time_goes_by(digits, tiny, tmp_path, monkeypatch):
    kept, clock, train_epoch = [], [0.0], training.Run.train_epoch

    def slow(self, *given):
        clock[0] += 0.45 * training.SAVE_EVERY
        return train_epoch(self, *given)

    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(training.Run, "train_epoch", slow)
    monkeypatch.setattr(checkpoints, "write", lambda path, tensors, about: kept.append(about))
    student = {"one": Student(tiny("deepest"), PRESETS["baseline"])}
    fit_quietly(student, digits[0], dataclasses.replace(RECIPE, epochs=8), folder=tmp_path)
    assert [about["epoch"] for about in kept] == [3, 6, 8]


def test_the_scale_of_fp16_is_kept(digits, tiny, tmp_path):
    def run(scale):
        student = {"one": Student(tiny("deepest"), PRESETS["baseline"])}
        accelerator = recipes.make_accelerator("fp32")
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return training.Run(student, digits[0], RECIPE, None, tmp_path, accelerator)

    run(64.0).save(RECIPE.epochs, {"one": []}, 4)
    later = run(2.0)
    later.resume()
    assert later.accelerator.scaler.get_scale() == 64.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_run_killed_at_any_moments_ends_with_the_very_same_weights(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=300)
    kills, status = map(int, done.stdout.split())
    assert status == 0 and kills > 1
    (expected, whole), (resumed, killed) = (
        checkpoints.read(tmp_path / run / "state.json") for run in ("whole", "killed")
    )
    assert whole["epoch"] == killed["epoch"] == len(killed["history"]["byot"]) == 8
    assert_same_weights(expected, resumed)


def test_a_state_of_other_settings_is_refused(digits, tiny, tmp_path):
    def students():
        return {"one": Student(tiny("deepest"), PRESETS["baseline"])}

    fit_quietly(students(), digits[0], RECIPE, folder=tmp_path)
    before = (tmp_path / "state.json").read_bytes()
    for recipe, images in [
        (dataclasses.replace(RECIPE, learning_rate=0.01), digits[0]),
        (dataclasses.replace(RECIPE, precision="bf16"), digits[0]),
        (RECIPE, digits[1]),
        (RECIPE, dataclasses.replace(digits[0], mean=(0.25,))),
    ]:
        with pytest.raises(checkpoints.CheckpointError, match="other settings"):
            fit_quietly(students(), images, recipe, folder=tmp_path)
    assert (tmp_path / "state.json").read_bytes() == before


@pytest.mark.parametrize("part", ["epoch", "history", "settings", "a tensor", "a shape"])
def test_a_state_that_lacks_a_part_is_refused(digits, tiny, tmp_path, part):
    def students():
        return {"one": Student(tiny("deepest"), PRESETS["baseline"])}

    state = tmp_path / "state.json"
    fit_quietly(students(), digits[0], RECIPE, folder=tmp_path)
    tensors, about = checkpoints.read(state)
    name = next(iter(tensors))
    if part == "a tensor":
        del tensors[name]
    elif part == "a shape":
        tensors[name] = torch.zeros(2, 3, 5)
    left = {key: value for key, value in about.items() if key not in (part, "weights", "sha256")}
    checkpoints.write(state, tensors, left)
    with pytest.raises(checkpoints.CheckpointError, match="delete it to start|other settings"):
        fit_quietly(students(), digits[0], RECIPE, folder=tmp_path)


def test_a_compiled_run_is_kept_and_ends_like_another(digits, tiny, tmp_path, monkeypatch):
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compile(net, backend="eager"))
    ends = {}
    for compiled in (False, True):
        ends[compiled] = tiny()
        recipe = dataclasses.replace(RECIPE, compile=compiled)
        student = Student(ends[compiled], PRESETS["multi_exit"])
        fit_quietly({"mine": student}, digits[0], recipe, folder=tmp_path / str(compiled))
    states = [checkpoints.read(tmp_path / str(c) / "state.json")[0] for c in (False, True)]
    assert states[0].keys() == states[1].keys()
    for name, value in ends[False].state_dict().items():
        torch.testing.assert_close(ends[True].state_dict()[name], value, rtol=1e-3, atol=1e-4)


# --- what goes wrong ----------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(digits, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SAVE_EVERY", 0)
    student = Student(tiny(), Objective(feature=1.0))
    recipe = dataclasses.replace(RECIPE, epochs=3)
    original, calls = student.network.forward, []

    def forward(images):
        calls.append(len(images))
        outputs = original(images)
        if len(calls) == 7:  # four batches an epoch: epoch 2, step 3
            return outputs._replace(features=outputs.features * math.inf)
        return outputs

    student.network.forward = forward
    with pytest.raises(TrainingDiverged) as caught:
        fit_quietly({"mine": student}, digits[0], recipe, folder=tmp_path)
    message = str(caught.value)
    assert message.startswith("mine: the loss term 'feature' is nan at epoch 2, step 3")
    assert f"{tmp_path / 'state.json'} (epoch 1)" in message
    assert checkpoints.read(tmp_path / "state.json")[1]["epoch"] == 1


def test_weights_that_are_not_finite_are_never_saved(digits, tiny, tmp_path):
    recipe = dataclasses.replace(RECIPE, epochs=1, batch_size=200, learning_rate=1e38)
    with pytest.raises(TrainingDiverged, match="is not finite at epoch 1, step 1; last.*none"):
        student = Student(tiny("deepest"), PRESETS["baseline"])
        with torch.no_grad():
            student.network.backbone.classifier.weight.mul_(1e4)
        fit_quietly({"mine": student}, digits[0], recipe, folder=tmp_path)
    assert not (tmp_path / "state.json").exists()


def test_statistics_that_are_not_finite_are_never_saved(digits, tiny, tmp_path):
    student = Student(tiny("deepest"), PRESETS["baseline"])
    student.network.backbone.stem[1].running_var.fill_(math.inf)  # the loss does not see it
    with pytest.raises(TrainingDiverged, match="running_var is not finite at epoch 2, step 4"):
        fit_quietly({"mine": student}, digits[0], RECIPE, folder=tmp_path)
    assert not (tmp_path / "state.json").exists()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"seed": 0.5}, "seed must be a whole number, got 0.5"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"batch_size": -1}, "batch_size must be positive"),
        ({"learning_rate": math.inf}, "learning_rate must be positive, got inf"),
        ({"learning_rate": math.nan}, "learning_rate must be positive"),
        ({"momentum": -0.1}, "momentum must not be negative"),
        ({"momentum": 1.0}, "momentum must be below 1"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"clip": math.inf}, "clip must be positive and finite, got inf"),
        ({"schedule": "steps"}, "unknown schedule 'steps'"),
        ({"precision": "int8"}, "unknown precision 'int8'"),
    ],
)
def test_recipes_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_what_does_not_fit_together_is_said(digits, tiny):
    train = digits[0]
    student = {"mine": Student(tiny("deepest"), PRESETS["kd"])}
    with pytest.raises(ValueError, match="mine learn from a teacher, and none was given"):
        fit_quietly(student, train, RECIPE)
    wrong = training.MultiExitNet(training_backbone(classes=7), "deepest")
    with pytest.raises(ValueError, match="teacher knows 7 classes of images of 1 x 16 x 16"):
        fit_quietly(student, train, RECIPE, teacher=wrong)
    colour = training.MultiExitNet(training_backbone(channels=3), "deepest")
    with pytest.raises(ValueError, match="student 'c' knows 10 classes of images of 3 x 16"):
        fit_quietly({"c": Student(colour, PRESETS["baseline"])}, train, RECIPE)
    large = training.MultiExitNet(training_backbone(size=32), "deepest")
    with pytest.raises(ValueError, match="1 x 32 x 32, digits has 10 classes of 1 x 16 x 16"):
        fit_quietly(student, train, RECIPE, teacher=large)
    with pytest.raises(ValueError, match="no images"):
        fit_quietly(student, train.subset([]), RECIPE, teacher=tiny("deepest"))
    alone = {"mine": Student(tiny("deepest"), PRESETS["baseline"])}
    coloured = dataclasses.replace(train, images=train.images.expand(-1, 3, -1, -1),
                                   mean=train.mean * 3, std=train.std * 3)  # fmt: skip
    for wrong, said in ((train.subset([]), "got 0 of 10"), (coloured, r"of \(3, 16, 16\)")):
        with pytest.raises(ValueError, match=f"validation needs images of 10 classes .* {said}"):
            fit_quietly(alone, train, RECIPE, validation=wrong)


def training_backbone(classes=10, channels=1, size=16):
    from tskd_lib import networks

    return networks.build("resnet8", classes, (channels, size, size), width=0.5)


# --- precision ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "features, expected",
    [
        ("amx_bf16 avx512_bf16 avx512_fp16", "bf16"),
        ("avx512_bf16 avx512_fp16", "fp32"),  # an Intel that hides its AMX is slower in bf16
        ("avx512_bf16", "bf16"),  # AMD
        ("avx2", "fp32"),
    ],
)
def test_on_a_cpu_auto_is_bf16_where_that_is_faster(monkeypatch, features, expected):
    found = dict.fromkeys(features.split(), True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert recipes.choose_precision("auto", torch.device("cpu")) == expected


def test_without_the_features_of_the_cpu_auto_is_fp32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert recipes.choose_precision("auto", torch.device("cpu")) == "fp32"


def test_a_precision_that_cannot_be_is_refused():
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match="fp16 is for GPUs: on a CPU take the precision bf16"):
        recipes.choose_precision("fp16", cpu)
    with pytest.raises(ValueError, match="unknown precision 'bfloat16'; known are"):
        recipes.choose_precision("bfloat16", cpu)
    assert recipes.choose_precision("fp16", torch.device("cuda")) == "fp16"
    assert recipes.choose_precision("auto", torch.device("mps")) == "fp32"
