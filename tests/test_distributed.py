"""Several processes train what one does, write everything once, and survive the loss of one."""

import os
import shutil
import subprocess
import sys
import time

import pytest
import torch

from tskd_lib import checkpoints, experiments, records
from tskd_lib.__main__ import main

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this PyTorch cannot distribute"
)
SCRIPT = """
import os, sys
from pathlib import Path
from tskd_lib import training
from tskd_lib.__main__ import main

training.SAVE_EVERY = 0
Path(f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
for command in sys.argv[1:]:
    if main(command.split()):
        sys.exit(2)
"""
COMMON = "--batch-size 50 --precision fp32"
# AlexNet with its deepest exit alone has no batch norm
PLAIN = f"{COMMON} --per-class 20 --network alexnet --width 0.1 --learning-rate 0.05 --epochs 3"
TEACHER = f"train {PLAIN} --seed 1 --out teacher"
STUDENTS = f"compare --methods baseline kd --teacher teacher/baseline.json {PLAIN} --out plain"
NORMED = f"train {COMMON} --per-class 40 --network resnet8 --width 0.5 --epochs 12 --out normed"


TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 2"
ACCELERATE = (
    "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
    "--mixed_precision no --dynamo_backend no"
)


def start(folder, *commands, launch=TORCHRUN):
    """The commands in two processes on the CPU, with what they print in two files."""
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(SCRIPT)
    with open(folder / "stdout", "w") as out, open(folder / "stderr", "w") as err:
        return subprocess.Popen(
            [sys.executable, *launch.split(), "script.py", *commands],
            cwd=folder,
            stdout=out,
            stderr=err,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        )


def finish(process, folder):
    assert process.wait(timeout=300) == 0, (folder / "stderr").read_text()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    finish(start(folder, TEACHER, STUDENTS, NORMED), folder)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert not any(main(command.split()) for command in (TEACHER, STUDENTS, NORMED))
    return folder


@pytest.mark.parametrize("name", ["teacher/baseline", "plain/seed-0/baseline", "plain/seed-0/kd"])
def test_without_batch_norm_two_processes_end_with_the_weights_of_one(one, two, name):
    alone, shared = (checkpoints.read(folder / f"{name}.json")[0] for folder in (one, two))
    for key, value in alone.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-3, atol=1e-5, msg=key)
    alone, shared = (records.read(folder / f"{name}.record.json") for folder in (one, two))
    assert (alone["provenance"]["processes"], shared["provenance"]["processes"]) == (1, 2)
    for before, after in zip(alone["curve"], shared["curve"], strict=True):
        assert after["accuracy"] == pytest.approx(before["accuracy"], abs=0.01)
        for term in ("total", "train accuracy"):  # over the images of both processes
            assert after[term] == pytest.approx(before[term], rel=1e-3)


def test_with_batch_norm_two_processes_reach_the_accuracy_of_one(one, two):
    alone, shared = (
        records.read(folder / "normed/baseline.record.json")["results"]["exits"][-1]["accuracy"]
        for folder in (one, two)
    )
    assert alone > 0.9 and shared == pytest.approx(alone, abs=0.05)


def test_accelerate_launch_does_what_torchrun_does(two, tmp_path):
    finish(start(tmp_path, TEACHER, launch=ACCELERATE), tmp_path)
    shared, alike = (
        records.read(folder / "teacher/baseline.record.json") for folder in (two, tmp_path)
    )
    assert alike["provenance"]["processes"] == 2
    assert alike["weights sha256"] == shared["weights sha256"]


def test_two_processes_print_once_and_leave_what_one_leaves(one, two):
    assert (two / "stdout").read_text().count("| method |") == 3
    shared = {str(path.relative_to(two)) for path in two.rglob("*.json")}
    assert shared == {str(path.relative_to(one)) for path in one.rglob("*.json")}
    assert len(list(two.rglob("*.safetensors"))) == len(shared) / 2  # a record for each network


def test_a_killed_process_ends_the_run_which_two_or_one_go_on_with(two, tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    process = start(folder, NORMED)
    state = experiments.state_path(folder / "normed", ["baseline"])
    deadline = time.monotonic() + 300
    while not state.exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    os.kill(int((folder / "1.pid").read_text()), 9)
    assert process.wait(timeout=60) != 0
    said = (folder / "stderr").read_text()
    assert "Signal 9 (SIGKILL)" in said and "[rank0]: Traceback" not in said
    assert 1 <= checkpoints.read(state)[1]["epoch"] < 12, "killed too late to prove anything"
    shutil.copytree(folder / "normed", tmp_path / "normed")

    finish(start(folder, NORMED), folder)
    whole, resumed = (
        records.read(place / "normed/baseline.record.json") for place in (two, folder)
    )
    assert resumed["weights sha256"] == whole["weights sha256"]

    monkeypatch.chdir(tmp_path)
    assert main(NORMED.split()) == 0
    alone = records.read(tmp_path / "normed/baseline.record.json")
    assert [row["epoch"] for row in alone["curve"]] == list(range(1, 13))
    assert alone["results"]["exits"][-1]["accuracy"] == pytest.approx(
        whole["results"]["exits"][-1]["accuracy"], abs=0.05
    )


def test_a_lost_process_is_said_in_one_sentence(monkeypatch, capsys, tmp_path):
    def run(*_):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [::1]:1")

    monkeypatch.setattr(experiments, "run", run)
    monkeypatch.chdir(tmp_path)
    assert main(NORMED.split()) == 2
    assert capsys.readouterr().err == (
        "tskd: another process of this run has ended; "
        "the same command goes on from the last epoch on disk\n"
    )
