"""An experiment's folder: records that say what happened, and nothing trained twice."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tskd_lib import checkpoints, data, experiments, losses, metrics, records, training, voting
from tskd_lib.losses import PRESETS
from tskd_lib.recipes import Recipe
from tskd_lib.training import evaluate, predict

RECIPE = Recipe(epochs=1, batch_size=50, learning_rate=0.05, augment=None, precision="fp32")
NETWORK = {"name": "resnet8", "width": 0.5, "strength": "separable"}


def run(folder, digits, methods=("baseline", "tskd"), teacher=None, **changes):
    recipe = dataclasses.replace(RECIPE, **changes)
    objectives = {method: PRESETS[method] for method in methods}
    return experiments.run(
        folder, "test", objectives, NETWORK, *digits, recipe, teacher, progress=False
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, digits):
    folder = tmp_path_factory.mktemp("teacher")
    experiments.run(
        folder, "test", {"teacher": PRESETS["baseline"]}, NETWORK, *digits, RECIPE, progress=False
    )
    return folder / "teacher.json"


def forbid_training(monkeypatch):
    def fit(*_, **__):
        raise AssertionError("nothing should be trained")

    monkeypatch.setattr(experiments, "fit", fit)


def test_records_say_what_happened(tmp_path, digits, teacher):
    baseline, tskd = run(tmp_path, digits, teacher=teacher)
    assert tskd["configuration"]["teacher"] == json.loads(teacher.read_text())["sha256"]
    assert baseline["configuration"]["teacher"] is None
    assert tskd["data"]["train sha256"] == digits[0].checksum()
    assert tskd["data"]["test images"] == 100 and tskd["data"]["image shape"] == [1, 16, 16]
    assert len(tskd["results"]["exits"]) == 3 and len(baseline["results"]["exits"]) == 1
    assert len(tskd["curve"]) == 1 and tskd["curve"][0]["images"] == 200
    assert tskd["cost"]["images per second"] == pytest.approx(200 / tskd["cost"]["seconds"])

    network, about = checkpoints.load_network(tmp_path / "tskd.json")
    assert about["sha256"] == tskd["weights sha256"]
    logits = predict(network, digits[1], "fp32")
    assert tskd["results"] == metrics.summarise(logits, digits[1].labels)
    assert tskd["results"] == evaluate(network, digits[1], "fp32")
    assert tskd["cost"]["flops"] == network.flops()
    assert not list(tmp_path.rglob("*state*"))
    assert not any(path.is_dir() for path in tmp_path.iterdir())


def test_summaries_are_the_metrics_of_each_answer():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 50, 7), torch.randint(7, (50,))
    summary = metrics.summarise(logits, labels)
    assert list(summary["votes"]) == list(voting.RULES)
    deepest, vote = summary["exits"][2], summary["votes"]["majority"]
    assert deepest["accuracy"] == pytest.approx((logits[2].argmax(1) == labels).float().mean())
    assert deepest["top5"] == float(metrics.accuracy(logits[2].softmax(1), labels, top=5))
    assert vote["nll"] == float(metrics.nll(voting.vote(logits, "majority"), labels))
    assert summary["oracle"] >= max(quality["accuracy"] for quality in summary["exits"])


def test_what_is_recorded_is_not_trained_again(tmp_path, digits, teacher, monkeypatch):
    first = run(tmp_path, digits, teacher=teacher)
    more = run(tmp_path, digits, ("baseline", "multi_exit"), teacher)
    assert more[0] == first[0] and more[1]["method"] == "multi_exit"
    forbid_training(monkeypatch)
    assert run(tmp_path, digits, teacher=teacher) == first


def test_normalisation_is_a_setting_but_for_records_that_lack_it(tmp_path, digits, monkeypatch):
    (found,) = run(tmp_path, digits, ("baseline",))
    forbid_training(monkeypatch)
    shifted = dataclasses.replace(digits[0], mean=(0.25,)), digits[1]
    with pytest.raises(records.RecordError, match="other settings"):
        run(tmp_path, shifted, ("baseline",))
    del found["data"]["normalisation"]
    records.write(found, tmp_path / "baseline.record.json")
    assert run(tmp_path, digits, ("baseline",)) == [found]


def test_other_settings_never_overwrite(tmp_path, digits, teacher, monkeypatch):
    run(tmp_path, digits, teacher=teacher)
    forbid_training(monkeypatch)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = data.per_class(digits[0], 5, 0), digits[1]
    for changed in ({"epochs": 2}, {"seed": 1}, {"learning_rate": 0.1}):
        with pytest.raises(records.RecordError, match="other settings; give another folder"):
            run(tmp_path, digits, teacher=teacher, **changed)
    with pytest.raises(records.RecordError, match="other settings"):
        run(tmp_path, other, teacher=teacher)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_that_died_while_recording_goes_on(tmp_path, digits, teacher, monkeypatch):
    expected = run(tmp_path / "whole", digits, teacher=teacher)
    write, calls = records.write, []

    def die_at_the_second(record, path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(record, path)

    monkeypatch.setattr(records, "write", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "died", digits, teacher=teacher)
    monkeypatch.undo()
    found = run(tmp_path / "died", digits, teacher=teacher)
    for one, other in zip(expected, found):
        assert one["weights sha256"] == other["weights sha256"]
        assert one["results"] == other["results"]
    assert not list((tmp_path / "died").rglob("state.json"))


def test_methods_of_one_seed_are_paired(tmp_path, digits, teacher):
    """Without a step of training worth the name, the backbones are still the same."""
    run(tmp_path, digits, teacher=teacher, learning_rate=1e-12, weight_decay=0.0)
    plain, multi = (
        checkpoints.load_network(tmp_path / f"{m}.json")[0] for m in ("baseline", "tskd")
    )
    for (name, one), other in zip(plain.backbone.named_parameters(), multi.backbone.parameters()):
        torch.testing.assert_close(one, other, msg=name)


def test_another_teacher_is_another_setting(tmp_path, digits, teacher):
    run(tmp_path / "students", digits, ("baseline", "kd"), teacher)
    other = {"teacher": PRESETS["baseline"]}
    recipe = dataclasses.replace(RECIPE, seed=7)
    experiments.run(tmp_path, "test", other, NETWORK, *digits, recipe, progress=False)
    with pytest.raises(records.RecordError, match="kd.record.json is of a run with other"):
        run(tmp_path / "students", digits, ("baseline", "kd"), tmp_path / "teacher.json")
    # the baseline has no teacher, so its record stands
    run(tmp_path / "students", digits, ("baseline",), tmp_path / "teacher.json")


def test_other_test_images_are_another_setting(tmp_path, digits):
    run(tmp_path, digits, ("baseline",))
    train, test = digits
    with pytest.raises(records.RecordError, match="baseline.record.json is of a run with other"):
        run(tmp_path, (train, test.subset(range(50))), ("baseline",))


def test_images_are_normalised_as_the_teachers_were(tmp_path, digits, teacher):
    lighter = [dataclasses.replace(images, mean=(0.1,), std=(0.9,)) for images in digits]
    (found,) = run(tmp_path / "lighter", lighter, ("kd",), teacher)
    (usual,) = run(tmp_path / "usual", digits, ("kd",), teacher)
    assert found["weights sha256"] == usual["weights sha256"]
    assert found["results"] == usual["results"]
    _, about = checkpoints.load_network(tmp_path / "lighter" / "kd.json")
    assert tuple(about["mean"]) == digits[0].mean and tuple(about["std"]) == digits[0].std


def test_what_a_kill_left_half_written_is_removed_at_the_end(tmp_path, digits):
    left = experiments.state_path(tmp_path, ["baseline"]).with_name(".state.json.123.partial")
    left.parent.mkdir()
    left.write_text("{")
    run(tmp_path, digits, ("baseline",))
    assert not left.parent.exists() and (tmp_path / "baseline.record.json").exists()


def test_an_interrupted_run_leaves_room_for_other_groups_and_then_goes_on(
    tmp_path, digits, monkeypatch
):
    methods = ("baseline", "multi_exit")
    expected = run(tmp_path / "whole", digits, methods, epochs=2)

    def stop(self, images, epoch, *rest, real=training.Run.train_epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return real(self, images, epoch, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.Run, "train_epoch", stop)
        patch.setattr(training, "SAVE_EVERY", 0)
        run(tmp_path / "died", digits, methods, epochs=2)
    (alone,) = run(tmp_path / "died", digits, ("baseline",), epochs=2)
    assert alone["weights sha256"] == expected[0]["weights sha256"]
    found = run(tmp_path / "died", digits, methods[::-1], epochs=2)  # in any order
    assert [r["weights sha256"] for r in found] == [r["weights sha256"] for r in expected[::-1]]
    assert not any(path.is_dir() for path in (tmp_path / "died").iterdir())


def test_an_earlier_experiment_named_like_a_method_stays(tmp_path, digits):
    run(tmp_path / "baseline", digits, ("baseline",))
    before = {path: path.read_bytes() for path in (tmp_path / "baseline").iterdir()}
    run(tmp_path, digits, ("baseline",))
    assert {path: path.read_bytes() for path in (tmp_path / "baseline").iterdir()} == before


def test_a_network_without_a_record_is_not_replaced(tmp_path, digits, monkeypatch):
    run(tmp_path, digits, ("baseline",))
    (tmp_path / "baseline.record.json").unlink()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    forbid_training(monkeypatch)
    with pytest.raises(records.RecordError, match="baseline.json has no record beside it"):
        run(tmp_path, digits, ("baseline",))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_teacher_of_other_classes_is_refused(tmp_path, digits, teacher):
    names = tuple(f"digit {i}" for i in range(10))
    renamed = [dataclasses.replace(images, classes=names) for images in digits]
    with pytest.raises(ValueError, match="knows the classes 0, 1, 2 .*has digit 0"):
        run(tmp_path, renamed, ("kd",), teacher)
    assert not list(tmp_path.iterdir())


def test_a_method_of_the_readers_own_is_told_from_the_preset_it_grew_from(tmp_path, digits):
    class Louder(losses.Objective):
        def __call__(self, *outputs):
            return {name: 2 * term for name, term in super().__call__(*outputs).items()}

    own = Louder(**dataclasses.asdict(PRESETS["baseline"]))
    goals = {"baseline": PRESETS["baseline"], "louder": own}
    plain, louder = experiments.run(
        tmp_path, "test", goals, NETWORK, *digits, RECIPE, progress=False
    )
    assert "class" not in plain["configuration"]["objective"]
    assert louder["configuration"]["objective"]["class"].endswith("Louder")
    assert louder["curve"][0]["total"] > plain["curve"][0]["total"]
    with pytest.raises(records.RecordError, match="louder.record.json is of a run with other"):
        goals = {"louder": PRESETS["baseline"]}
        experiments.run(tmp_path, "test", goals, NETWORK, *digits, RECIPE, progress=False)


@pytest.mark.parametrize("name", ["kd width=24/64", "kd.record", "kd.analysis", ""])
def test_a_method_whose_name_no_file_can_have_is_refused(tmp_path, digits, name):
    with pytest.raises(ValueError, match=f"'{name}': its name becomes that of a file"):
        objectives = {name: PRESETS["baseline"]}
        experiments.run(tmp_path, "test", objectives, NETWORK, *digits, RECIPE, progress=False)
    assert not list(tmp_path.iterdir())


def test_settings_may_be_numbers_of_numpy(tmp_path, digits):
    objective = losses.Objective(np.float32(0.5), self_=np.int64(1), temperature=np.arange(5)[4])
    recipe = dataclasses.replace(RECIPE, seed=np.int64(3), learning_rate=np.float32(0.25))
    network, goals = {**NETWORK, "width": np.float32(0.25)}, {"mine": objective}
    (record,) = experiments.run(tmp_path, "test", goals, network, *digits, recipe, progress=False)
    found = record["configuration"]
    assert found["network"]["width"] == found["recipe"]["learning_rate"] == 0.25
    assert (found["objective"]["label"], found["objective"]["temperature"]) == (0.5, 4)
    assert record["seed"] == found["recipe"]["seed"] == 3


def test_many_methods_with_long_names_train_side_by_side(tmp_path, digits):
    goals = {f"{'a long name ' * 10}{i}": PRESETS["baseline"] for i in range(3)}
    found = experiments.run(tmp_path, "test", goals, NETWORK, *digits, RECIPE, progress=False)
    assert [record["method"] for record in found] == list(goals)


def test_a_folder_that_cannot_be_made_shows_before_training(tmp_path, digits, monkeypatch):
    forbid_training(monkeypatch)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        run(tmp_path / "file" / "seed-0", digits, ("baseline",))


def test_a_run_waits_for_another_of_the_same_methods_and_takes_its_records(
    tmp_path, digits, monkeypatch, capsys
):
    first = run(tmp_path, digits, ("baseline",))
    record = tmp_path / f"baseline{records.SUFFIX}"
    content = record.read_bytes()
    record.unlink()  # as while it is being trained
    forbid_training(monkeypatch)
    unfinished = experiments.state_path(tmp_path, ["baseline"]).parent
    with ThreadPoolExecutor() as pool:
        with experiments._alone(unfinished):
            second = pool.submit(run, tmp_path, digits, ("baseline",))
            said = ""
            while not said and not second.done():
                time.sleep(0.01)
                said = capsys.readouterr().err
            record.write_bytes(content)
        assert said == f"waiting for another run of the same methods in {tmp_path}\n"
        assert second.result() == first
    assert not unfinished.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a process keeps its parent's number there")
def test_no_training_goes_on_without_the_command_that_started_it():
    code = """
import time
from joblib import Parallel
from tskd_lib.experiments import elsewhere

def train():
    print("training", flush=True)
    time.sleep(600)

Parallel(2)(elsewhere(train) for _ in range(2))
"""
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert [command.stdout.readline().strip() for _ in range(2)] == 2 * [b"training"]
    finally:
        command.kill()
    command.communicate(timeout=60)  # the end of the output is the end of all that could write it


@pytest.mark.skipif(sys.platform == "win32", reason="there are no process groups there")
def test_after_an_interruption_of_all_processes_there_is_one_sentence():
    code = """
import signal, sys, time
from joblib import Parallel
from tqdm import tqdm
from tskd_lib.experiments import elsewhere

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

def train():
    with tqdm(disable=True):
        print("training", flush=True)
        time.sleep(600)

try:
    Parallel(2)(elsewhere(train) for _ in range(2))
except KeyboardInterrupt:
    sys.exit("Interrupted")
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **pipes)
    try:
        assert [command.stdout.readline().strip() for _ in range(2)] == 2 * [b"training"]
        os.killpg(command.pid, signal.SIGINT)  # as Ctrl-C does
        assert command.communicate(timeout=60)[1] == b"Interrupted\n"
    finally:
        command.kill()
        command.communicate()
