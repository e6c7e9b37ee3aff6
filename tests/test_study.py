"""The chapters' shared problem: its parts do not overlap, its runs are kept and held to ours."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import joblib
import nbformat
import pandas as pd
import pytest
import record_cifar
import record_gradients
import record_grid
import record_narrow
import record_pairs
import record_settings
import record_shots
import record_soft
import record_strong
import record_study
import record_why
import torch

from tskd_lib import analysis, data, experiments, metrics, records, study, training
from tskd_lib.exits import build_student
from tskd_lib.losses import PRESETS, Objective, soft_target_loss
from tskd_lib.recipes import Recipe
from tskd_lib.training import evaluate, predict

CHAPTER = Path(__file__).parent.parent / "notebooks" / "04-soft-targets.ipynb"


@pytest.fixture
def small(tmp_path):
    problem = study.load("quick")
    student = {"name": "resnet8", "width": 0.5, "strength": "separable"}
    recipe = dataclasses.replace(problem.student_recipe, epochs=1, precision="fp32")
    return dataclasses.replace(problem, student=student, student_recipe=recipe, folder=tmp_path)


def rows(images):
    return {tuple(image.flatten().tolist()) for image in images.images}


def test_no_image_is_in_two_parts():
    problem = study.load("quick")
    parts = [rows(part) for part in (problem.train, problem.validation, problem.test)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    few = problem.few(3)
    assert rows(few) <= parts[0] and few.labels.bincount().tolist() == [10] * 10
    assert rows(few) != rows(problem.few(4))


def test_networks_of_a_quick_study_are_gone_when_the_process_ends():
    code = "from tskd_lib import study; print(study.load('quick').folder)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())
    assert folder.is_absolute() and not folder.exists()


def test_run_gives_a_row_for_every_seed_and_answer_and_keeps_the_networks(small, monkeypatch):
    results = small.run({m: PRESETS[m] for m in ("baseline", "multi_exit")}, seeds=range(2))
    assert set(zip(results.method, results.seed)) == {
        (method, seed) for method in ("baseline", "multi_exit") for seed in range(2)
    }
    logits = small.logits("multi_exit", seed=1)
    assert logits.shape == (3, len(small.test), 10)
    deepest = results.query("method == 'multi_exit' and seed == 1 and answer == 'deepest'")
    right = (logits[-1].argmax(-1) == small.test.labels).float().mean()
    assert deepest.accuracy.item() == pytest.approx(right.item())
    assert small.logits("baseline", images=small.validation).shape[1] == len(small.validation)
    path = small.network_path("multi_exit", seed=1)
    about = json.loads(path.read_text()) | {"mean": [0.9], "std": [0.5]}
    path.write_text(json.dumps(about))  # as if a teacher of other images had taught it
    scaled = dataclasses.replace(small.test, mean=(0.9,), std=(0.5,))
    expected = predict(small.network("multi_exit", 1), scaled, "fp32")
    assert torch.equal(small.logits("multi_exit", seed=1), expected)
    monkeypatch.setattr(experiments, "fit", None)  # what is there is not trained again
    again = small.run({"baseline": PRESETS["baseline"]}, [1, 1])
    first = results.query("method == 'baseline' and seed == 1").reset_index(drop=True)
    pd.testing.assert_frame_equal(again, first)


def test_nothing_to_run_is_a_sentence(small):
    for objectives, seeds in (({"baseline": PRESETS["baseline"]}, []), ({}, range(3))):
        with pytest.raises(ValueError, match="at least one objective and one seed"):
            small.run(objectives, seeds)


def test_students_side_by_side_are_those_of_one_process(small, monkeypatch):
    class Own(Objective):  # a class that no other process can import
        pass

    goals = {"multi_exit": PRESETS["multi_exit"], "own": Own(label=0.5)}
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    apart = small.run(goals, seeds=range(2))
    monkeypatch.setattr(study, "default_device", lambda: torch.device("cuda"))
    together = dataclasses.replace(small, folder=small.folder / "together")
    times = ["seconds", "shared seconds", "images per second"]
    both = (found.drop(columns=times) for found in (together.run(goals, seeds=range(2)), apart))
    pd.testing.assert_frame_equal(*both)


@pytest.mark.parametrize("cores, shared", [(1, 3), (2, 2), (3, 3), (4, 0)])
def test_only_the_students_of_seeds_left_over_train_one_by_one(small, monkeypatch, cores, shared):
    monkeypatch.setattr(study, "cores", lambda: cores)
    goals = {method: PRESETS[method] for method in ("baseline", "multi_exit")}
    jobs = small.jobs(goals, [5, 6, 7, 5])
    found = [(job["recipe"].seed, list(job["objectives"])) for job in jobs]
    together = [(seed, list(goals)) for seed in (5, 6, 7)[:shared]]
    assert found == together + [(s, [m]) for s in (5, 6, 7)[shared:] for m in goals]


def test_teacher_of_ours_is_the_one_its_record_tells_of():
    problem = study.load("quick")
    record = records.read(problem.teacher_path().with_suffix(".record.json"))
    found = evaluate(problem.teacher(), problem.test, "fp32")["exits"][-1]["accuracy"]
    assert found == pytest.approx(record["results"]["exits"][-1]["accuracy"], abs=0.005)
    assert record["data"]["train sha256"] == problem.train.checksum()
    assert record["data"]["test sha256"] == problem.test.checksum()


def test_teacher_is_trained_where_none_comes_with_the_library(small):
    recipe = dataclasses.replace(small.teacher_recipe, epochs=1)
    problem = dataclasses.replace(
        small, name="another", teacher_network=small.student, teacher_recipe=recipe
    )
    assert problem.teacher_path() == small.folder / "teacher" / "teacher.json"
    assert not problem.teacher().training
    with pytest.raises(records.RecordError, match="no records"):
        problem.ours()


def test_a_teacher_in_the_folder_comes_before_ours(small):
    assert small.teacher_path().is_relative_to(records.COMMITTED)
    own = small.train_teacher(small.folder / "teacher")
    assert small.teacher_path() == own


def test_our_students_learned_from_our_teacher_and_from_this_data():
    problem = study.load("quick")
    teacher = records.read(problem.teacher_path().with_suffix(".record.json"))
    found = [r for r in records.read_all(records.COMMITTED / problem.name) if r["seed"] < 100]
    assert {r["configuration"]["teacher"] for r in found} == {None, teacher["weights sha256"]}
    for record in found:
        seen = problem.few(record["seed"]).checksum()
        assert record["data"]["train sha256"] == seen
    assert {"baseline", "kd", "multi_exit", "byot", "tskd"} <= {r["method"] for r in found}


def test_yours_against_ours_by_hand(small, monkeypatch):
    def results(values):
        rows = [("kd", "deepest", seed, value) for seed, value in enumerate(values)]
        return pd.DataFrame(rows, columns=["method", "answer", "seed", "accuracy"])

    monkeypatch.setattr(study.Study, "ours", lambda self: results([0.91, 0.93, 0.95]))
    table = small.against_ours(results([0.90, 0.94]))
    low, high = metrics.prediction_interval([91, 93, 95], 2)
    assert table.loc[("kd", "deepest")].tolist() == [
        92.0,
        93.0,
        round(low, 1),
        round(high, 1),
        True,
    ]
    assert not small.against_ours(results([0.5, 0.5])).inside.any()
    monkeypatch.setattr(study.Study, "ours", lambda self: results([0.91]))
    assert small.against_ours(results([0.90, 0.94])).empty  # one seed of ours bounds nothing


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(ValueError, match="'quick' or 'full'"):
        study.load("fast")


def test_full_profile_is_cifar100(monkeypatch, digits):
    names = []

    def load(name, root):
        names.append(name)
        return digits

    monkeypatch.setattr(study.data, "load", load)
    full = study.load("full")
    assert names == ["cifar100"] and full.shots == 100 and full.name == "cifar100-few"
    assert torch.equal(full.train.labels.bincount(), torch.full((10,), 18))


def test_arms_of_the_ablation_are_the_presets_with_terms_switched_off():
    arms = record_study.ablation()
    assert len(arms) == 8
    assert arms["labels+teacher+self+feature"] == PRESETS["tskd"]
    assert arms["labels"] == PRESETS["multi_exit"]
    for name, arm in arms.items():
        for term, attribute in {
            "teacher": "teacher",
            "self": "self_",
            "feature": "feature",
        }.items():
            assert bool(getattr(arm, attribute)) == (term in name)


def test_choices_hold_the_presets_and_change_one_setting():
    arms = record_study.choices()
    for name in ("tskd T=4", "tskd self=0.3", "tskd feature=0.01"):
        assert arms[name] == PRESETS["tskd"]
    assert arms["kd T=4"] == PRESETS["kd"]
    for name, arm in arms.items():
        preset = PRESETS[name.split()[0]].settings()
        assert sum(arm.settings()[key] != value for key, value in preset.items()) <= 1
        assert f"{float(name.split('=')[1]):g}" in {
            f"{v:g}" for v in arm.settings().values() if not isinstance(v, str)
        }


def test_what_the_book_needs_is_kept(small, tmp_path, monkeypatch):
    library = tmp_path / "library"
    monkeypatch.setattr(records, "COMMITTED", library)
    arms = {"multi_exit": PRESETS["multi_exit"], "arm": Objective(label=0.5)}
    problem = dataclasses.replace(small, folder=tmp_path / "mine" / small.name)
    problem.run(arms, range(2))
    old = library / small.name / "seed-0" / "multi_exit-0123abcd.safetensors"
    old.parent.mkdir(parents=True)
    old.touch()  # of an earlier run
    (problem.folder / "seed-0" / "multi_exit.analysis.json").write_text("of an earlier run")
    record_study.keep(problem.folder, problem.test)
    kept = sorted(str(path.relative_to(library / small.name)) for path in library.rglob("*.*"))
    weights = next((library / small.name).glob("seed-0/*.safetensors"))
    assert kept == sorted(
        [f"seed-0/{weights.name}", "seed-0/multi_exit.json"]
        + [f"seed-{seed}/{name}.record.json" for seed in range(2) for name in arms]
        + [f"seed-{seed}/multi_exit.analysis.json" for seed in range(2)]
    )
    digests = {r["weights sha256"] for r in records.read_all(library) if r["method"] != "arm"}
    assert digests == set(analysis.read_all(library))


@pytest.fixture
def own_teacher(small):
    """The small problem with a teacher of its own, as the library has none for it."""
    recipe = dataclasses.replace(small.teacher_recipe, epochs=1, precision="fp32")
    return dataclasses.replace(small, teacher_network=small.student, teacher_recipe=recipe)


def test_what_the_arms_suggest_is_confirmed_on_test_images(own_teacher, tmp_path, monkeypatch):
    library, few = tmp_path / "library", own_teacher
    few = dataclasses.replace(few, student_recipe=dataclasses.replace(few.student_recipe, epochs=2))
    thin = {"width": 0.25}, {"thin": PRESETS["multi_exit"]}
    arms = {
        record_why.EXPLORED: [({}, {"kd": PRESETS["kd"]}), thin],
        record_why.CONFIRMED: [thin],
        record_why.FRESH: [thin],
        record_why.SCARCE: [thin],
    }
    seeds = {name: range(2) for name in arms} | {record_why.FRESH: range(2, 4)}
    monkeypatch.setattr(records, "COMMITTED", library)
    monkeypatch.setattr(study, "load", {"full": few}.get)
    monkeypatch.setattr(record_shots, "EPOCHS", {3: 4})
    for name, value in {"ARMS": arms, "SEEDS": seeds, "EPOCHS": 1, "SHOTS": 3}.items():
        monkeypatch.setattr(record_why, name, value)
    record_why.main(tmp_path / "mine")
    for name, methods, images, epochs in (
        (record_why.EXPLORED, ("kd", "thin"), few.validation, 1),
        (record_why.CONFIRMED, ("thin",), few.test, 2),
        (record_why.FRESH, ("thin",), few.test, 2),
        (record_why.SCARCE, ("thin",), few.test, 4),
    ):
        found = {(r["method"], r["seed"]): r for r in records.read_all(library / name)}
        assert set(found) == {(method, seed) for method in methods for seed in seeds[name]}
        analyses = analysis.read_all(library / name)
        for (method, _), record in found.items():
            shots = 3 if name == record_why.SCARCE else few.shots
            assert record["data"]["train images"] == 10 * shots
            assert record["data"]["test sha256"] == images.checksum()
            assert record["configuration"]["recipe"]["epochs"] == epochs
            assert record["configuration"]["network"]["width"] == (0.5 if method == "kd" else 0.25)
            assert ("calibrated" in analyses[record["weights sha256"]]) == (method == "thin")
    assert not list(library.rglob("*.safetensors"))


def by_method(arms):
    """The objectives of some arms, and what is changed of their networks."""
    objectives = {method: goal for _, goals in arms for method, goal in goals.items()}
    return objectives, {method: network for network, goals in arms for method in goals}


def our_runs():
    """Each experiment of the scripts: name, objectives by method, their networks, seeds, epochs."""
    every = PRESETS | record_study.ablation()
    yield "digits-few", every, {}, record_study.SEEDS["quick"], 60
    yield "cifar100-few", PRESETS, {}, record_study.SEEDS["full"], 30
    yield record_grid.TERMS, record_study.ablation(), {}, record_grid.SEEDS, 60
    yield "digits-few-validation", record_study.choices(), {}, record_study.CHOICE_SEEDS, 60
    for shots, epochs in record_shots.EPOCHS.items():
        yield f"cifar100-{shots}", PRESETS, {}, record_shots.SEEDS, epochs
    scarce = record_shots.EPOCHS[record_why.SHOTS]
    epochs = {record_why.EXPLORED: record_why.EPOCHS, record_why.SCARCE: scarce}
    for name, arms in record_why.ARMS.items():
        yield name, *by_method(arms), record_why.SEEDS[name], epochs.get(name, 30)
    goals = {name: goal for name, (goal, _) in record_cifar.trials(Recipe()).items()}
    yield f"{record_cifar.NAME}-search", goals, {}, range(1), record_cifar.SEARCH_EPOCHS
    search = records.read_all(records.COMMITTED / f"{record_cifar.NAME}-search")
    goals = {method: goal for method, (goal, _) in record_cifar.chosen(search, Recipe()).items()}
    yield record_cifar.NAME, goals, {}, range(3), 30
    yield "cifar100-small", PRESETS, {}, range(1), 6
    for name, arms in record_strong.ARMS.items():
        strong, network = by_method(arms)
        strong = {method: goals[method.split()[0]] for method in strong}
        yield name, strong, network, record_strong.SEEDS[name], 30
    for name, profile, width, classes, shape, epochs in (
        ("digits-few", "quick", 0.125, 10, (1, 16, 16), 60),
        ("cifar100-few", "full", 0.25, 100, (3, 32, 32), 30),
    ):
        student = {"name": "resnet10", "width": width}
        train = SimpleNamespace(classes=range(classes), shape=shape)
        problem = SimpleNamespace(student=student, train=train)
        for kind, arms in record_narrow.KINDS[profile].items():
            rivals, seeds = by_method(arms(problem)), record_study.SEEDS[profile]
            yield f"{name}-{kind}", *rivals, seeds, epochs
    controls = record_soft.controls()
    for profile, methods, epochs in (
        ("quick", {m: PRESETS[m] for m in ("baseline", "kd")} | controls, 60),
        ("full", controls, 30),
    ):
        yield record_soft.NAMES[profile], methods, {}, record_soft.SEEDS[profile], epochs
    settings = record_settings
    yield settings.NAME, settings.arms(), {}, settings.SEEDS, settings.EPOCHS
    single = by_method(settings.single_arms())
    yield settings.SINGLE, *single, settings.SEEDS, settings.EPOCHS
    yield settings.LONG, settings.RIVALS, {}, settings.SEEDS, settings.LONG_EPOCHS
    for strength in settings.TEACHERS:
        yield f"cifar100-few-{strength}", settings.RIVALS, {}, settings.SEEDS, settings.EPOCHS


OUR_RUNS = [*our_runs()]


@pytest.mark.parametrize(
    "name, arms, networks, seeds, epochs", OUR_RUNS, ids=[run[0] for run in OUR_RUNS]
)
def test_our_records_are_those_of_the_script(name, arms, networks, seeds, epochs):
    found = [r for r in records.read_all(records.COMMITTED / name) if r["method"] != "teacher"]
    expected = {(method, seed) for method in arms for seed in seeds}
    assert {(r["method"], r["seed"]) for r in found} == expected
    usual = {"width": 0.125 if name.startswith("digits") else 0.25, "strength": "byot"}
    for record in found:
        configuration, method = record["configuration"], record["method"]
        assert configuration["recipe"]["epochs"] == epochs
        network = usual | networks.get(method, {})
        assert network.items() <= configuration["network"].items()
        assert configuration["objective"] == json.loads(json.dumps(arms[method].settings()))


@pytest.mark.parametrize("images", record_grid.IMAGES)
def test_our_grid_is_that_of_the_script(images):
    found = records.read_all(records.COMMITTED / record_grid.NAME / f"images-{images}")
    arms = record_grid.arms()
    assert {(r["method"], r["seed"]) for r in found} == {
        (method, seed)
        for method, arm in arms.items()
        for seed in (record_grid.SEEDS if arm.temperature == 4 else record_grid.FEWER_SEEDS)
    }
    for record in found:
        assert record["data"]["train images"] == 10 * images
        objective = json.loads(json.dumps(arms[record["method"]].settings()))
        assert record["configuration"]["objective"] == objective


def test_explorers_runs_are_kept_with_their_analyses(own_teacher, tmp_path, monkeypatch):
    library, preset = tmp_path / "library", PRESETS["multi_exit"]
    arms = {"multi_exit": preset, "warm": dataclasses.replace(preset, temperature=8.0)}
    monkeypatch.setattr(records, "COMMITTED", library)
    monkeypatch.setattr(study, "load", {"quick": own_teacher}.get)
    for name, value in {
        "arms": lambda: arms,
        "ablation": lambda: {"labels": preset},
        "IMAGES": (2, 3),
        "SEEDS": range(2),
        "FEWER_SEEDS": range(1),
    }.items():
        monkeypatch.setattr(record_grid, name, value)
    record_grid.main(tmp_path / "mine")
    for images in (2, 3):
        found = records.read_all(library / record_grid.NAME / f"images-{images}")
        assert [(r["method"], r["seed"]) for r in found] == [
            ("multi_exit", 0),
            ("warm", 0),
            ("multi_exit", 1),
        ]
        looks = analysis.read_all(library / record_grid.NAME / f"images-{images}")
        assert set(looks) == {record["weights sha256"] for record in found}
        assert all(record["data"]["train images"] == 10 * images for record in found)
    terms = records.read_all(library / record_grid.TERMS)
    assert [(r["method"], r["seed"]) for r in terms] == [("labels", 0), ("labels", 1)]
    assert all(record["data"]["train images"] == 20 for record in terms)


@pytest.mark.parametrize("strength, width", record_settings.TEACHERS.items())
def test_our_weaker_teachers_are_those_of_the_script(strength, width):
    path = records.COMMITTED / f"cifar100-few-{strength}" / "teacher" / "teacher.record.json"
    configuration = records.read(path)["configuration"]
    assert configuration["network"]["width"] == width
    assert configuration["recipe"]["epochs"] == record_settings.TEACHER_EPOCHS


def test_our_search_was_judged_on_validation_images():
    found = records.read_all(records.COMMITTED / f"{record_cifar.NAME}-search")
    judged = {record["data"]["test sha256"] for record in found}
    explored = records.read_all(records.COMMITTED / record_why.EXPLORED)
    assert judged == {record["data"]["test sha256"] for record in explored}
    for record in found:
        recipe = record["configuration"]["recipe"]
        assert f" rate={recipe['learning_rate']:g} " in record["method"]
        if record["method"].startswith("baseline"):
            assert record["method"].endswith(f" weight_decay={recipe['weight_decay']:g}")


def test_our_large_students_have_what_the_search_chose():
    search = records.read_all(records.COMMITTED / f"{record_cifar.NAME}-search")
    chosen = record_cifar.chosen(search, Recipe())
    path = records.COMMITTED / record_cifar.NAME / "teacher" / "teacher.record.json"
    teacher, places = records.read(path)["weights sha256"], (record_cifar.NAME, *record_strong.ARMS)
    for record in [r for name in places for r in records.read_all(records.COMMITTED / name)]:
        if record["method"] != "teacher":
            configuration = record["configuration"]
            goal, own = chosen[record["method"].split()[0]]
            assert configuration["recipe"]["learning_rate"] == own.learning_rate
            assert configuration["recipe"]["weight_decay"] == own.weight_decay
            assert configuration["teacher"] == (teacher if goal.teacher else None)
            assert record["data"]["train images"] == 50_000
            assert record["data"]["test images"] == 10_000


def test_our_large_teacher_is_that_of_the_rules():
    path = records.COMMITTED / record_cifar.NAME / "teacher" / "teacher.record.json"
    record = records.read(path)
    configuration = record["configuration"]
    assert record_cifar.TEACHER.items() <= configuration["network"].items()
    assert configuration["recipe"]["epochs"] == record_cifar.TEACHER_EPOCHS
    assert record["data"]["train images"] == 50_000
    assert record["data"]["test images"] == 10_000


def test_a_change_of_the_settings_is_one_change():
    for name, arm in record_settings.arms().items():
        preset, own = PRESETS[name.split()[0]].settings(), arm.settings()
        changed = {key for key, value in own.items() if preset.get(key, value) != value}
        added = own.keys() - preset.keys() - {"class"}
        (setting,) = changed | added
        value = own[setting]
        value = len(value) if setting == "exits" else value
        assert name.split("=")[1] == f"{value:g}"


@pytest.fixture
def answers():
    """Logits and features of three exits, labels, and a teacher's logits."""
    torch.manual_seed(0)
    return torch.randn(3, 8, 5), torch.randn(3, 8, 4), torch.randint(5, (8,)), torch.randn(8, 5)


def test_weight_of_the_shallow_exits(answers):
    logits, features, labels, teacher = answers
    preset = PRESETS["tskd"].settings()
    whole = PRESETS["tskd"](logits, features, labels, teacher)
    deepest = PRESETS["tskd"](logits[-1:], features[-1:], labels, teacher)
    for weight in (0.0, 0.3, 1.0):
        terms = record_settings.Shallow(**preset, shallow=weight)(logits, features, labels, teacher)
        assert terms.keys() == whole.keys()
        for term, loss in terms.items():
            alone = deepest.get(term, torch.tensor(0.0))
            torch.testing.assert_close(loss, alone + weight * (whole[term] - alone))
        assert terms["total"].item() == pytest.approx(sum(terms.values()).item() / 2)


def test_self_term_that_sets_in_late(answers):
    logits, _, labels, _ = answers
    usual, late = PRESETS["tskd"](*answers), record_settings.Late(**PRESETS["tskd"].settings())
    known = torch.stack([z.softmax(0)[y] for z, y in zip(logits[-1], labels)]).mean()
    terms = late(*answers)
    torch.testing.assert_close(terms["self"], known * usual["self"])
    torch.testing.assert_close(terms["total"], usual["total"] - (1 - known) * usual["self"])
    logits.requires_grad_()
    late(*answers)["self"].backward()
    assert not logits.grad[-1].any()  # the deepest exit is not paid for knowing less


def test_feature_term_of_directions(answers):
    logits, features, *given = answers
    preset = PRESETS["tskd"]
    unit = record_settings.Unit(**preset.settings())
    terms, usual = unit(*answers), preset(*answers)
    cosines = torch.cosine_similarity(features[:-1], features[-1:], dim=-1)
    expected = preset.feature * (2 - 2 * cosines).sum(0).mean()
    torch.testing.assert_close(terms["feature"], expected)
    torch.testing.assert_close(terms["total"], usual["total"] - usual["feature"] + expected)
    longer = unit(logits, 3 * features, *given)
    torch.testing.assert_close(longer["feature"], terms["feature"])


def test_settings_are_tried_one_by_one_and_with_weaker_teachers(own_teacher, tmp_path, monkeypatch):
    library, few, shallow = tmp_path / "library", own_teacher, record_settings.Shallow
    arms = {"tskd shallow=0.3": shallow(**PRESETS["multi_exit"].settings(), shallow=0.3)}
    late, cut = record_settings.Late(self_=1.0), {"detach": True}
    single = [({}, {"tskd self late": late}), (cut, {"tskd exits detached": PRESETS["tskd"]})]
    monkeypatch.setattr(records, "COMMITTED", library)
    monkeypatch.setattr(study, "load", {"full": few}.get)
    for name, value in {
        "arms": lambda: arms,
        "single_arms": lambda: single,
        "SEEDS": range(2),
        "EPOCHS": 1,
        "LONG_EPOCHS": 3,
        "TEACHERS": {"weak": 0.25},
        "TEACHER_EPOCHS": 1,
    }.items():
        monkeypatch.setattr(record_settings, name, value)
    record_settings.main(tmp_path / "mine")
    found = records.read_all(library / record_settings.NAME)
    assert [r["method"] for r in found] == 2 * ["tskd shallow=0.3"]
    weak = records.read_all(library / "cifar100-few-weak")
    (teacher,) = (r for r in weak if r["method"] == "teacher")
    assert teacher["configuration"]["network"]["width"] == 0.25
    assert teacher["data"]["test sha256"] == few.test.checksum()
    students = [r for r in weak if r["method"] != "teacher"]
    longer = records.read_all(library / record_settings.LONG)
    assert [r["method"] for r in longer] == 2 * ["kd", "tskd"]
    assert {r["configuration"]["recipe"]["epochs"] for r in longer} == {3}
    assert {r["configuration"]["teacher"] for r in students} == {teacher["weights sha256"]}
    alone = records.read_all(library / record_settings.SINGLE)
    assert [r["provenance"]["precision"] for r in alone] == 4 * ["fp32"]
    for record in alone:
        detached = record["configuration"]["network"].get("detach", False)
        assert detached == (record["method"] == "tskd exits detached")
    for record in (judged := [*found, *alone, *longer, *students]):
        assert record["data"]["test sha256"] == few.validation.checksum()
    digests = {r["weights sha256"] for r in judged}
    assert digests == set(analysis.read_all(library))


def test_pulls_of_the_exits_add_up_to_the_gradient_of_the_objective(small):
    images, objective = data.per_class(small.train, 3, 0), PRESETS["tskd"]
    shape = {"classes": 10, "input_shape": images.shape}
    network, teacher = (build_student(seed=s, **shape, **small.student) for s in (0, 1))
    batch = data.normalise(images.images, images.mean, images.std)
    with torch.no_grad():
        soft = teacher.eval()(batch).logits[-1]

    def gradient(loss):
        parts = torch.autograd.grad(loss, network.backbone.stages[0].parameters())
        return torch.cat([part.flatten() for part in parts])

    pulls = record_gradients.pulls(network, objective, images, teacher)
    total = gradient(objective(*network(batch), images.labels, soft)["total"])
    torch.testing.assert_close(pulls.sum(0), total, rtol=1e-3, atol=1e-5)
    apart = record_gradients.pulls(network, PRESETS["multi_exit"], images, teacher)
    for k, pull in enumerate(apart):
        loss = torch.nn.functional.cross_entropy(network(batch).logits[k], images.labels)
        torch.testing.assert_close(pull, gradient(loss), rtol=1e-3, atol=1e-5)


def test_cosines_of_our_students_are_kept(own_teacher, tmp_path, monkeypatch):
    library, few = tmp_path / "library", own_teacher
    monkeypatch.setattr(records, "COMMITTED", library)
    monkeypatch.setattr(study, "load", {"full": few}.get)
    for name, value in {"METHODS": ("tskd",), "SEEDS": range(1), "SHOTS": 2}.items():
        monkeypatch.setattr(record_gradients, name, value)
    mine = dataclasses.replace(few, folder=tmp_path / "mine" / few.name)
    mine.run({"tskd": PRESETS["tskd"]}, range(1))
    record_gradients.main(tmp_path / "mine")
    (found,) = json.loads((library / few.name / record_gradients.FILE).read_text())["cosines"]
    (record,) = records.read_all(mine.folder / "seed-0")
    assert found["weights sha256"] == record["weights sha256"]
    before, after = torch.tensor(found["before"]), torch.tensor(found["after"])
    for cosines in (before, after):
        assert cosines.shape == (3, 3) and (cosines.abs() < 1 + 1e-3).all()
        torch.testing.assert_close(cosines, cosines.T)
        torch.testing.assert_close(cosines.diag(), torch.ones(3))
    assert (before - after).abs().max() > 0.01
    assert not (few.folder / "teacher").exists(), "a second teacher was trained"


def test_our_cosines_are_of_our_students():
    ours = records.COMMITTED / "cifar100-few"
    found = json.loads((ours / record_gradients.FILE).read_text())["cosines"]
    known = {(r["method"], r["seed"]): r["weights sha256"] for r in records.read_all(ours)}
    assert {(r["method"], r["seed"]) for r in found} == {
        (method, seed) for method in record_gradients.METHODS for seed in record_gradients.SEEDS
    }
    assert all(known[r["method"], r["seed"]] == r["weights sha256"] for r in found)


def test_our_pairs_see_the_same_images():
    ours = records.COMMITTED / record_pairs.NAME
    images = {r["seed"]: r["data"]["train sha256"] for r in records.read_all(ours)}
    votes = json.loads((ours / record_pairs.FILE).read_text())["votes"]
    assert [tuple(vote["seeds"]) for vote in votes] == record_pairs.PAIRS
    assert all(images[seed] == images[partner] for seed, partner in record_pairs.PAIRS)


def test_students_that_are_missing_are_one_sentence(own_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "COMMITTED", tmp_path)
    monkeypatch.setattr(study, "load", {"full": own_teacher}.get)
    with pytest.raises(SystemExit, match="multi_exit.json") as stop:
        record_study.command(record_gradients.main, [str(tmp_path / "mine")])
    assert "\n" not in str(stop.value)


def test_two_students_with_the_same_images_vote(own_teacher, tmp_path, monkeypatch):
    library, few = tmp_path / "library", own_teacher
    monkeypatch.setattr(records, "COMMITTED", library)
    monkeypatch.setattr(study, "load", {"full": few}.get)
    monkeypatch.setattr(record_pairs, "PAIRS", [(0, 2), (1, 3)])
    record_pairs.main(tmp_path / "mine")
    ours = library / record_pairs.NAME
    found = {r["seed"]: r for r in records.read_all(ours)}
    images = [found[seed]["data"]["train sha256"] for seed in range(4)]
    assert images == [few.few(seed).checksum() for seed in (0, 1, 0, 1)]
    assert len({r["weights sha256"] for r in found.values()}) == 4
    problem = dataclasses.replace(few, folder=tmp_path / "mine" / record_pairs.NAME)
    votes = json.loads((ours / record_pairs.FILE).read_text())["votes"]
    assert [vote["seeds"] for vote in votes] == [[0, 2], [1, 3]]
    for vote in votes:
        chances = [problem.logits("kd", seed)[0].softmax(-1) for seed in vote["seeds"]]
        right = (sum(chances).argmax(-1) == few.test.labels).double().mean().item()
        assert vote["accuracy"] == pytest.approx(right)


def test_rivals_of_an_exit_cost_no_more(own_teacher, tmp_path, monkeypatch):
    library, few = tmp_path / "library", own_teacher
    monkeypatch.setattr(records, "COMMITTED", library)
    monkeypatch.setattr(study, "load", {"quick": few}.get)
    monkeypatch.setattr(record_narrow, "SEEDS", {"quick": range(2)})
    record_narrow.main(tmp_path / "mine")
    shape = {"classes": 10, "input_shape": few.train.shape}
    costs = build_student(**few.student, **shape).flops()
    narrow, cut = (records.read_all(library / f"{few.name}-{kind}") for kind in ("narrow", "cut"))
    exits = range(1, len(costs) + 1)
    for found, name, places in (narrow, "for", exits), (cut, "up to", exits[:-1]):
        expected = [(f"kd {name} exit {exit}", seed) for seed in range(2) for exit in places]
        assert [(r["method"], r["seed"]) for r in found] == expected
    for record in cut:
        exit = int(record["method"][-1])
        assert record["configuration"]["network"]["exits"] == [exit]
        assert record["cost"]["flops"][0] <= costs[exit - 1]
    for record in narrow:
        cost, width = record["cost"]["flops"][0], record["configuration"]["network"]["width"]
        assert cost <= costs[int(record["method"][-1]) - 1]
        if width < few.student["width"]:
            wider = {**few.student, "width": width + record_narrow.CHANNEL}
            more = build_student(**wider, **shape, exits="deepest").flops()[0]
            assert more > costs[int(record["method"][-1]) - 1]
    assert not list(library.rglob("*.safetensors"))
    path = library / f"{few.name}-narrow" / record_narrow.FILE
    check_cascades(path, narrow, range(2))


def check_cascades(path, students, seeds):
    """Both ends of a cascade are those of the records: its first student alone, and its second."""
    found = json.loads(path.read_text())["cascades"]
    assert [one["seed"] for one in found] == [*seeds]
    for one in found:
        by_name = {r["method"]: r for r in students if r["seed"] == one["seed"]}
        ends = [by_name[method] for method in one["methods"]]
        curve, costs = pd.DataFrame(one["early exit"]), [r["cost"]["flops"][0] for r in ends]
        right = [r["results"]["exits"][0]["accuracy"] for r in ends]
        assert curve.threshold.is_monotonic_increasing
        assert curve.accuracy.iloc[[0, -1]].tolist() == pytest.approx(right)
        assert curve.flops.iloc[[0, -1]].tolist() == pytest.approx([costs[0], sum(costs)])


@pytest.mark.parametrize("name, profile", [("digits-few", "quick"), ("cifar100-few", "full")])
def test_our_cascades_are_of_our_students(name, profile):
    ours = records.COMMITTED / f"{name}-narrow"
    found = records.read_all(ours)
    check_cascades(ours / record_narrow.FILE, found, record_study.SEEDS[profile])


def test_fewer_images_are_trained_on_for_longer(own_teacher, tmp_path, monkeypatch):
    library = tmp_path / "library"
    monkeypatch.setattr(records, "COMMITTED", library)
    monkeypatch.setattr(study, "load", {"full": own_teacher}.get)
    monkeypatch.setattr(record_shots, "EPOCHS", {5: 2, 10: 1})
    monkeypatch.setattr(record_shots, "PRESETS", {m: PRESETS[m] for m in ("baseline", "kd")})
    monkeypatch.setattr(record_shots, "SEEDS", range(2))
    record_shots.main(tmp_path / "mine")
    for shots, epochs in {5: 2, 10: 1}.items():
        found = records.read_all(library / f"cifar100-{shots}")
        assert {(r["method"], r["seed"]) for r in found} == {
            (method, seed) for method in ("baseline", "kd") for seed in range(2)
        }
        for record in found:
            assert record["data"]["train images"] == 10 * shots
            assert record["configuration"]["recipe"]["epochs"] == epochs
    assert not list(library.rglob("*.safetensors"))


def test_parts_of_soft_targets_are_taken_away_on_both_problems(own_teacher, tmp_path, monkeypatch):
    library, few = tmp_path / "library", dataclasses.replace(own_teacher, name="few")
    monkeypatch.setattr(records, "COMMITTED", library)
    monkeypatch.setattr(study, "load", {"quick": own_teacher, "full": few}.get)
    monkeypatch.setattr(record_soft, "SEEDS", {"quick": range(2), "full": range(1)})
    record_soft.main(tmp_path / "mine")
    for profile, methods, precision in (
        ("quick", ["baseline", "kd", "no ranking", "no teacher"], "fp32"),
        ("full", ["no ranking", "no teacher"], "bf16"),
    ):
        found = records.read_all(library / record_soft.NAMES[profile])
        assert [r["method"] for r in found] == methods * len(record_soft.SEEDS[profile])
        assert {r["provenance"]["precision"] for r in found} == {precision}
        assert {r["data"]["test sha256"] for r in found} == {own_teacher.test.checksum()}


def test_controls_are_those_of_the_chapter():
    chapter = nbformat.read(CHAPTER, as_version=4)
    taught = {"Objective": Objective}
    exec(next(c.source for c in chapter.cells if "class NoRanking" in c.source), taught)
    torch.manual_seed(0)
    z, teacher, labels = torch.randn(1, 6, 5), 3 * torch.randn(6, 5), torch.arange(6) % 5
    p = (teacher / 4).softmax(-1)
    trusts = {"no ranking": p.gather(1, labels[:, None])}
    trusts["no teacher"] = trusts["no ranking"].mean().expand(6, 1)
    names = {"no ranking": "NoRanking", "no teacher": "NoTeacher"}
    for method, objective in record_soft.controls().items():
        target = ((1 - trusts[method]) / 4).repeat(1, 5).scatter(1, labels[:, None], trusts[method])
        found = objective(z, None, labels, teacher)
        torch.testing.assert_close(
            found["teacher"], 0.9 * soft_target_loss(z[0], 4 * target.log(), 4.0)
        )
        same = taught[names[method]](**PRESETS["kd"].settings())(z, None, labels, teacher)
        torch.testing.assert_close(found, same)


@pytest.fixture
def large(own_teacher, tmp_path, monkeypatch):
    """The rules of the large comparison, on the digits: the few images, and all."""
    few, every = own_teacher, data.load("digits")
    monkeypatch.setattr(records, "COMMITTED", tmp_path / "library")
    for name, value in {
        "RATES": (0.1, 1e-6),
        "SETTINGS": {"baseline": ("weight_decay", (0.0, 1.0)), "tskd": ("self_", (0.0, 0.1))},
        "SEARCH_EPOCHS": 2,
        "TEACHER": few.teacher_network,
        "TEACHER_EPOCHS": 1,
    }.items():
        monkeypatch.setattr(record_cifar, name, value)
    monkeypatch.setattr(study, "load", {"full": few}.get)
    monkeypatch.setattr(data, "load", {"cifar100": every}.get)
    return few, every


def test_cifar_comparison_takes_the_settings_that_validation_chose(large, tmp_path):
    (few, every), library, mine = large, tmp_path / "library", tmp_path / "mine"
    record_cifar.main(mine, "0")
    (teacher,) = records.read_all(library / "cifar100-all")
    assert teacher["method"] == "teacher" and teacher["data"]["train images"] == len(every[0])
    record_cifar.main(mine, "2")
    elsewhere = tmp_path / "elsewhere"  # another machine, which goes on from what is committed
    for name in ("cifar100-all", "cifar100-all-search"):
        shutil.copytree(library / name, elsewhere / name)
    assert not (elsewhere / "cifar100-all" / "seed-1" / "tskd.json").exists()
    record_cifar.main(elsewhere, "3")

    tried = records.read_all(library / "cifar100-all-search")
    assert len(tried) == 8 and not (library / "cifar100-all-search" / "teacher").exists()
    for record in tried:
        assert record["data"]["test sha256"] == few.validation.checksum()
        assert record["configuration"]["recipe"]["epochs"] == 2
    best = record_cifar.best(tried)
    final = records.read_all(library / "cifar100-all")
    assert {(r["method"], r["seed"]) for r in final if r["method"] != "teacher"} == {
        (method, seed) for method in record_cifar.SETTINGS for seed in range(3)
    }
    assert {r["weights sha256"] for r in final if r["method"] != "teacher"} == set(
        analysis.read_all(library / "cifar100-all")
    )
    for record in final:
        assert record["data"]["test sha256"] == every[1].checksum()
        if record["method"] == "teacher":
            continue
        (top,) = (r for r in tried if r["method"] == best[record["method"]])
        assert top["configuration"]["recipe"]["learning_rate"] == 0.1
        assert record["configuration"]["objective"] == top["configuration"]["objective"]
        for key in ("learning_rate", "weight_decay"):
            chosen = top["configuration"]["recipe"][key]
            assert record["configuration"]["recipe"][key] == chosen
        assert record["configuration"]["recipe"]["epochs"] == 1


def test_strong_students_see_all_images_with_the_settings_of_the_search(
    large, tmp_path, monkeypatch
):
    (_, every), library, mine = large, tmp_path / "library", tmp_path / "mine"
    record_cifar.main(mine, "0")
    thin = {"width": 0.25}, {"tskd thin": PRESETS["tskd"]}
    name, more = record_strong.ARMS
    monkeypatch.setattr(record_strong, "ARMS", {name: [thin], more: [thin]})
    for seeds in (range(1), range(2)):  # the second goes on from the first
        monkeypatch.setattr(record_strong, "SEEDS", {name: seeds, more: range(3, 4)})
        record_strong.main(mine)
    (teacher,) = records.read_all(library / record_cifar.NAME)
    best = record_cifar.best(tried := records.read_all(library / f"{record_cifar.NAME}-search"))
    (top,) = (r["configuration"] for r in tried if r["method"] == best["tskd"])
    found = {place: records.read_all(library / place) for place in (name, more)}
    made = [(r["experiment"], r["method"], r["seed"]) for rs in found.values() for r in rs]
    assert made == [(name, "tskd thin", 0), (name, "tskd thin", 1), (more, "tskd thin", 3)]
    looks = analysis.read_all(library / name) | analysis.read_all(library / more)
    for record in [*found[name], *found[more]]:
        configuration = record["configuration"]
        assert configuration["network"]["width"] == 0.25
        assert configuration["objective"] == top["objective"]
        assert configuration["recipe"]["learning_rate"] == top["recipe"]["learning_rate"] == 0.1
        assert configuration["recipe"]["epochs"] == 1
        assert configuration["teacher"] == teacher["weights sha256"]
        assert record["data"]["train images"] == 10 * every[0].labels.bincount().min()
        assert record["data"]["test sha256"] == every[1].checksum()
        assert "calibrated" in looks[record["weights sha256"]]
    assert not [path for place in found for path in (library / place).rglob("*.safetensors")]


def test_best_trial_is_that_of_the_deepest_exit_and_then_of_the_vote():
    def trial(method, deepest, vote):
        votes = {"probability": {"accuracy": vote}}
        return {"method": method, "results": {"exits": [{"accuracy": deepest}], "votes": votes}}

    tried = [trial("kd a", 0.5, 0.1), trial("kd b", 0.4, 0.9), trial("tskd a", 0.5, 0.2)]
    tried += [trial("tskd b", 0.5, 0.3), trial("byot a", 0.2, 0.2), trial("byot b", 0.2, 0.1)]
    assert record_cifar.best(tried) == {"kd": "kd a", "tskd": "tskd b", "byot": "byot a"}


def test_every_method_has_nine_trials_and_its_preset_is_near_them():
    tried = record_cifar.trials(Recipe())
    assert len(tried) == 9 * len(PRESETS) and len(set(map(str, tried.values()))) == len(tried)
    for name, (objective, recipe) in tried.items():
        preset = PRESETS[name.split()[0]].settings()
        changed = {key for key, value in objective.settings().items() if value != preset[key]}
        assert len(changed) <= 1
        assert f"rate={recipe.learning_rate:g} " in name


@pytest.mark.parametrize("wrong", [[], ["a", "slow"], ["a", "quick", "b"]])
def test_scripts_say_what_they_want(wrong, capsys):
    with pytest.raises(SystemExit, match="Name a folder .*, then quick or full."):
        record_study.command(record_study.main, wrong, ("quick", "full"))


@pytest.mark.parametrize(
    "error, message",
    [
        (KeyboardInterrupt, "Interrupted; the same command goes on"),
        (PermissionError(13, "Permission denied", "here"), "here: Permission denied"),
        (OSError("the disk is gone"), "the disk is gone"),
        (training.TrainingDiverged("the loss is nan"), "the loss is nan"),
        (data.DataError("no images"), "no images"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
    ],
)
def test_scripts_end_in_one_sentence(error, message):
    def fail(folder):
        raise error

    with pytest.raises(SystemExit, match=message):
        record_study.command(fail, ["here"])


def test_a_bug_of_a_script_is_not_hidden():
    def fail(folder):
        raise TypeError("not what was meant")

    with pytest.raises(TypeError, match="not what was meant"):
        record_study.command(fail, ["here"])


def test_a_training_that_is_killed_is_one_sentence():
    def die(folder):
        joblib.Parallel(2)(experiments.elsewhere(os._exit, 1) for _ in range(2))

    with pytest.raises(SystemExit, match="a process .* was killed, .* the same command goes on"):
        record_study.command(die, ["here"])
