"""How long runs will take is planned from their steps; how far they are is read from the disk."""

import dataclasses
import json

import pytest

from tskd_lib import experiments, progress
from tskd_lib.losses import PRESETS
from tskd_lib.recipes import Recipe


@pytest.fixture
def jobs(tmp_path, digits):
    """Two seeds of one student and of two side by side: 10 epochs of 200 images."""
    return [
        {
            "folder": tmp_path / f"seed-{seed}",
            "name": "mine",
            "objectives": {method: PRESETS[method] for method in methods},
            "network": {"name": "resnet8", "width": 0.5, "strength": "separable"},
            "train": digits[0],
            "test": digits[1].subset(range(30)),
            "recipe": Recipe(epochs=10, batch_size=50, precision="fp32", seed=seed),
            "teacher_path": None,
            "progress": False,
            "every_epoch": True,
        }
        for seed in range(2)
        for methods in (["baseline"], ["multi_exit", "byot"])
    ]


def forecast(monkeypatch, capsys, jobs, paces):
    """What is said where an image takes so many seconds."""
    monkeypatch.setattr(progress, "LONG", 0)
    monkeypatch.setattr(experiments, "pace", lambda objectives, *_: paces[len(objectives)])
    progress.forecast(jobs, 1)
    return capsys.readouterr().err


def test_forecast_is_the_pace_times_what_is_left(jobs, monkeypatch, capsys):
    # two seeds, 10 epochs of 200 images and 30 of the test at a third: 4,200 s at 1 s an image
    said = forecast(monkeypatch, capsys, jobs, {1: 1.0, 2: 3.0})
    assert said.startswith("6 runs of 10 epochs on 200 images: about 4 h 40 min on 1 CPU core (")
    jobs[0]["folder"].mkdir()
    (jobs[0]["folder"] / "baseline.record.json").touch()  # done: 2,100 s less
    state = experiments.state_path(jobs[1]["folder"], jobs[1]["objectives"])
    state.parent.mkdir()
    history = {"multi_exit": [{}] * 5, "byot": [{}] * 5}  # half done: 3,150 s less
    state.write_text(json.dumps({"history": history}))
    said = forecast(monkeypatch, capsys, jobs, {1: 1.0, 2: 3.0})
    assert said.startswith("5 runs of 10 epochs on 200 images: about 3 h 12 min")


def test_forecast_of_runs_of_several_sizes_names_none(jobs, monkeypatch, capsys):
    jobs[0]["recipe"] = dataclasses.replace(jobs[0]["recipe"], epochs=20)
    said = forecast(monkeypatch, capsys, jobs, {1: 1.0, 2: 1.0})
    assert said.startswith("6 runs: about 2 h 55 min on 1 CPU core (")


def test_jobs_are_shared_out_to_the_workers(jobs, monkeypatch, capsys):
    monkeypatch.setattr("joblib.Parallel", lambda workers: lambda tasks: [1.0] * workers)
    monkeypatch.setattr("joblib.delayed", lambda function: lambda *_: None)
    monkeypatch.setattr(progress, "LONG", 0)
    progress.forecast(jobs, 3)  # 2,100 s each: two of the four follow each other
    assert "about 1 h 10 min on 3 CPU cores" in capsys.readouterr().err


def test_short_runs_and_runs_that_are_done_are_not_measured(jobs, monkeypatch, capsys):
    monkeypatch.setattr(experiments, "pace", None)
    progress.forecast(jobs, 1)
    monkeypatch.setattr(progress, "LONG", 1)
    for job in jobs:
        job["folder"].mkdir(exist_ok=True)
        for method in job["objectives"]:
            (job["folder"] / f"{method}.record.json").touch()
    progress.forecast(jobs, 1)
    assert capsys.readouterr().err == ""


def test_pace_is_of_real_steps_and_leaves_nothing(jobs, tmp_path):
    job = dict(jobs[1])
    given = [job[key] for key in ("objectives", "network", "train", "recipe", "teacher_path")]
    assert 1e-6 < experiments.pace(*given, seconds=0.0) < 1
    assert not list(tmp_path.iterdir())


def test_bar_counts_epochs_on_disk_while_jobs_run(jobs, monkeypatch, capsys):
    short = dataclasses.replace(jobs[1]["recipe"], epochs=2)
    todo = [{**jobs[1], "recipe": short}]
    monkeypatch.setattr("tskd_lib.training.SAVE_EVERY", 0)
    seen = []
    save = experiments.checkpoints.write

    def watch(path, *rest):
        result = save(path, *rest)
        if path.name == "state.json":
            seen.append(progress.epochs_left(todo[0]))
        return result

    monkeypatch.setattr(experiments.checkpoints, "write", watch)
    with progress.bar(todo):
        experiments.run(**todo[0])
    assert seen == [2, 0] and progress.epochs_left(todo[0]) == 0
    assert "4/4" in capsys.readouterr().err


@pytest.mark.parametrize(
    "seconds, text", [(5, "1 min"), (600, "10 min"), (4200, "1 h 10 min"), (7199, "2 h 0 min")]
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text
