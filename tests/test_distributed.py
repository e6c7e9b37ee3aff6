"""Several processes train what one does, write everything once, and survive the loss of one."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from tskd_lib import checkpoints, experiments, records
from tskd_lib.__main__ import main

pytestmark = pytest.mark.skipif(
    os.name == "nt" or not torch.distributed.is_available(),
    reason="on Windows, or this PyTorch cannot distribute",
)
SCRIPT = """
import os, signal, sys
from tskd_lib import training
from tskd_lib.__main__ import main

training.SAVE_EVERY = 0
train_epoch = training.Run.train_epoch

def die_in_the_third(self, data, epoch, *rest):
    if epoch == 3:  # the other one shared the second epoch, so it has saved the first
        os.kill(os.getpid(), signal.SIGKILL)
    return train_epoch(self, data, epoch, *rest)

if os.environ["RANK"] == os.environ.get("LOST"):
    training.Run.train_epoch = die_in_the_third
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
    "--mixed_precision no --dynamo_backend no --main_process_port"
)


def run(folder, *commands, launch=TORCHRUN, lost="none"):
    """The commands in two processes, with what they print in two files; the exit status.

    The process of the rank `lost` kills itself.
    """
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(SCRIPT)
    with open(folder / "stdout", "w") as out, open(folder / "stderr", "w") as err:
        return subprocess.run(
            [sys.executable, *launch.split(), "script.py", *commands],
            cwd=folder,
            stdout=out,
            stderr=err,
            env={**os.environ, "OMP_NUM_THREADS": "1", "LOST": lost},
            timeout=300,
        ).returncode


def finish(folder, *commands, launch=TORCHRUN):
    assert run(folder, *commands, launch=launch) == 0, (folder / "stderr").read_text()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    finish(folder, TEACHER, STUDENTS, NORMED)
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
    with socket.create_server(("127.0.0.1", 0)) as free:  # the usual port may be another run's
        port = free.getsockname()[1]
    finish(tmp_path, TEACHER, launch=f"{ACCELERATE} {port}")
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
    assert run(folder, NORMED, lost="1") != 0
    state = experiments.state_path(folder / "normed", ["baseline"])
    said = (folder / "stderr").read_text()
    assert "Signal 9 (SIGKILL)" in said and "[rank0]: Traceback" not in said
    assert checkpoints.read(state)[1]["epoch"] in (1, 2)
    shutil.copytree(folder / "normed", tmp_path / "normed")

    finish(folder, NORMED)
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
    def lose(*_):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [::1]:1")

    monkeypatch.setattr(experiments, "run", lose)
    monkeypatch.chdir(tmp_path)
    assert main(NORMED.split()) == 2
    assert capsys.readouterr().err == (
        "tskd: another process of this run has ended; "
        "the same command goes on from the last epoch on disk, if there is one\n"
    )
