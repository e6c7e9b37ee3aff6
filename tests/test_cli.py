"""The command line: it does what the library does, and says what is wrong in one sentence."""

import argparse
import dataclasses
import errno
import hashlib
import io
import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image

from tskd_lib import (
    anytime,
    bench,
    checkpoints,
    data,
    experiments,
    files,
    losses,
    records,
    report,
    training,
)
from tskd_lib.__main__ import main
from tskd_lib.arguments import output_file, output_folder
from tskd_lib.exits import MultiExitNet

COMMANDS = ("train", "compare", "evaluate", "predict", "bench", "report")
SMALL = "--network resnet8 --strength separable --width 0.25 --batch-size 25 --precision fp32"
SMALL = [*SMALL.split(), "--epochs", "1", "--image-size", "8", "--learning-rate", "0.05"]
COMPARE = ["compare", *SMALL, "--per-class", "5", "--teacher-network", "resnet8"]


def run(*arguments):
    """The exit code of a command, also where argparse ends it."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module", autouse=True)
def few_digits():
    """Digits are few in this module: 15 to train and 5 to test of each class."""
    real, cache = data.load, {}

    def load(name, *arguments, **options):
        if name != "digits":
            return real(name, *arguments, **options)
        key = (arguments, tuple(options.items()))
        if key not in cache:
            train, test = real(name, *arguments, **options)
            cache[key] = data.per_class(train, 15, 0), data.per_class(test, 5, 0)
        return cache[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", load)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with what `compare` makes of two methods and two seeds, and what it printed."""
    folder = tmp_path_factory.mktemp("cli") / "digits"
    arguments = [*COMPARE, "--methods", "tskd", "baseline", "--seeds", "0", "3", "--out", folder]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        patch.setattr(sys, "stderr", io.StringIO())
        assert run(*arguments) == 0
        printed = sys.stdout.getvalue()
    return folder, arguments, printed


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of that folder, to be damaged."""
    shutil.copytree(trained[0], tmp_path / "digits")
    return tmp_path / "digits"


def hashes(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in Path(folder).rglob("*")
        if p.is_file()
    }


def photos(folder, count=4):
    """Image files of real digits, by path."""
    paths = []
    _, test = data.load("digits", image_size=8)
    for i in range(count):
        paths.append(folder / f"photo {i}.png")
        Image.fromarray(test.images[7 * i, 0].numpy()).save(paths[-1])
    return paths


def class_folders(folder, classes=2, size=(8, 8)):
    random = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class {label}").mkdir(parents=True)
        for i in range(4):
            pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class {label}" / f"{i}.png")
    return folder


# Help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(capsys, command):
    assert run(command, "--help") == 0
    said = capsys.readouterr()
    assert said.err == ""
    text = " ".join(said.out.split())
    assert f"usage: tskd {command}" in text
    assert len(text.split("options:")[0].split(command, 1)[1]) > 40
    for option in re.findall(r"\n  (-[^\n]*(?:\n {10,}[^\n]*)*)", said.out):
        words = option.replace("\n", " ").split("  ", 1)
        assert len(words) == 2 and re.search("[a-z]{3}", words[1]), f"unexplained: {option}"


def test_the_first_help_leads_on(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"\n    {command}  +\w+", text)
    assert "examples:" in text
    for line in re.findall(r"\n  tskd ([^\n]+?)(?:   .*)?(?=\n)", text):
        assert line.split()[0] in COMMANDS


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_explains_every_method_and_data_set(capsys, command):
    run(command, "--help")
    text = capsys.readouterr().out
    explained = text.split("methods: ")[1]
    assert all(f"{method} (" in " ".join(explained.split()) for method in losses.PRESETS)
    assert all(name in text for name in (*data.NAMES, "resnet18", "vgg16", "alexnet"))


# Training


def test_compare_trains_and_records_everything(trained):
    folder, _, printed = trained
    names = set(hashes(folder))
    for place in (
        "teacher/teacher",
        *(f"seed-{s}/{m}" for s in (0, 3) for m in ("tskd", "baseline")),
    ):
        assert {f"{place}.json", f"{place}.record.json"} <= names
        record = records.read(folder / f"{place}.record.json")
        assert record["experiment"] == "digits"
        assert record["data"]["train images"] == (150 if "teacher" in place else 50)
        _, about = checkpoints.load_network(folder / f"{place}.json")
        assert about["sha256"] == record["weights sha256"]
    assert len(names) == 15 + 3, "the state of the runs is gone, but for a lock of each"
    drawn = {records.read(p)["data"]["train sha256"] for p in folder.glob("seed-*/*.record.json")}
    assert len(drawn) == 2, "every seed draws its own few images"
    teacher = records.read(folder / "teacher" / "teacher.record.json")["weights sha256"]
    by_method = {r["method"]: r for r in records.read_all(folder / "seed-3")}
    assert by_method["tskd"]["configuration"]["teacher"] == teacher
    assert by_method["baseline"]["configuration"]["teacher"] is None
    assert by_method["tskd"]["seed"] == 3
    table = records.summary(records.frame(records.read_all(folder)))
    assert printed == records.markdown(table) + "\n"
    assert list(table.index) == ["teacher", "baseline", "tskd"]


def test_compare_twice_trains_nothing(trained, monkeypatch, capsys):
    folder, arguments, printed = trained

    def fail(*arguments, **options):
        raise AssertionError("trained again")

    before = hashes(folder)
    monkeypatch.setattr(experiments, "fit", fail)
    assert run(*arguments) == 0
    assert capsys.readouterr().out == printed
    assert hashes(folder) == before


@pytest.mark.parametrize("few, size", [(5, 16), (12, 30), (None, 37)])
def test_an_epoch_of_few_images_has_several_steps(few, size, tmp_path, monkeypatch):
    def stop(folder, name, objectives, network, train, test, recipe, teacher):
        raise ValueError(f"{len(train)} images, batches of {recipe.batch_size}")

    monkeypatch.setattr(experiments, "run", stop)
    monkeypatch.setattr(sys, "stderr", said := io.StringIO())
    assert run("train", *(["--per-class", few] if few else []), "--out", tmp_path) == 2
    assert said.getvalue().endswith(f"images, batches of {size}\n")


def test_compare_goes_on_where_it_was_interrupted(trained, tmp_path, monkeypatch, capsys):
    reference, arguments, _ = trained
    shutil.copytree(reference / "teacher", tmp_path / "digits" / "teacher")
    arguments = [*arguments[:-1], tmp_path / "digits"]
    arguments[arguments.index("1")] = "2"  # epochs, in a copy of the list
    arguments += ["--teacher-epochs", "1"]
    real = training.Run.train_epoch

    def stop(self, images, epoch, *rest):
        if epoch == 2:
            raise KeyboardInterrupt
        return real(self, images, epoch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "train_epoch", stop)
        patch.setattr(training, "SAVE_EVERY", 0)
        assert run(*arguments) == 130
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("tskd: interrupted; the same command")
    )
    assert list((tmp_path / "digits" / "seed-0").glob("*/state.json"))
    assert run(*arguments) == 0
    whole = [*arguments[:-3], tmp_path / "whole" / "digits", *arguments[-2:]]
    shutil.copytree(reference / "teacher", tmp_path / "whole" / "digits" / "teacher")
    assert run(*whole) == 0
    for place in ("seed-0/tskd", "seed-0/baseline", "seed-3/tskd"):
        one, other = (
            records.read(root / f"{place}.record.json")
            for root in (tmp_path / "digits", tmp_path / "whole" / "digits")
        )
        assert one["weights sha256"] == other["weights sha256"]
        assert one["results"] == other["results"]


def test_train_with_other_weights(trained, tmp_path, capsys):
    teacher = trained[0] / "teacher" / "teacher.json"
    weights = ["teacher=0.25", "temperature=2", "smoothing=0.1"]
    arguments = ["train", *SMALL, "--method", "kd", "--teacher", teacher, "--seed", "7"]
    arguments += ["--weights", weights[0], "--weights", *weights[1:]]
    assert run(*arguments, "--out", tmp_path / "mine") == 0
    said = capsys.readouterr()
    assert f"The network is in {tmp_path / 'mine' / 'kd'}.json" in said.out
    record = records.read(tmp_path / "mine" / "kd.record.json")
    expected = dataclasses.replace(
        losses.PRESETS["kd"], teacher=0.25, temperature=2.0, smoothing=0.1
    )
    assert record["configuration"]["objective"] == dataclasses.asdict(expected)
    assert (record["seed"], record["experiment"], record["method"]) == (7, "mine", "kd")
    assert {"label", "teacher"} <= set(record["curve"][0])
    checkpoints.load_network(tmp_path / "mine" / "kd.json")


def test_an_option_with_several_values_may_be_repeated(tmp_path):
    arguments = [*COMPARE, "--methods", "kd", "--methods", "baseline", "--seeds", "1"]
    arguments += ["--seeds", "2", "--subset-seed", "5", "--out", tmp_path]
    assert run(*arguments) == 0
    found = [r for seed in (1, 2) for r in records.read_all(tmp_path / f"seed-{seed}")]
    assert {(r["method"], r["seed"]) for r in found} == set(product(["kd", "baseline"], [1, 2]))
    assert len({r["data"]["train sha256"] for r in found}) == 1


def test_a_drive_that_is_not_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr("os.path.exists", lambda path: False)
    with pytest.raises(argparse.ArgumentTypeError, match="mine cannot be made; give another"):
        output_folder("mine")


def test_images_that_have_a_left_side_are_not_flipped(tmp_path):
    folder = class_folders(tmp_path / "letters")
    arguments = ["train", *SMALL, "--dataset", "folder", "--data-root", folder]
    for name, more in (("as usual", []), ("not", ["--no-flip"])):
        assert run(*arguments, *more, "--out", tmp_path / name) == 0
        record = records.read(tmp_path / name / "baseline.record.json")
        assert record["configuration"]["recipe"]["augment"]["flip"] == (name == "as usual")


def test_a_folder_of_images_all_the_way(tmp_path, capsys):
    folder = class_folders(tmp_path / "photos", classes=3)
    images = ["--dataset", "folder", "--data-root", folder]
    assert run("train", *SMALL, *images, "--out", tmp_path / "out") == 0
    network = tmp_path / "out" / "baseline.json"
    capsys.readouterr()
    assert run("evaluate", network, *images, "--precision", "fp32", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == records.read(tmp_path / "out" / "baseline.record.json")["results"]
    known = ["--data-root", folder, "--precision", "fp32", "--json"]  # it knows the data set
    assert run("evaluate", network, *known) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert run("predict", network, folder / "class 1" / "0.png", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["class"] in ("class 0", "class 1", "class 2")
    (folder / "class 2").rename(folder / "another")
    code = run("evaluate", network, *images)
    assert_one_sentence(capsys, code, "choose the data set that it was trained on")


def test_a_folder_of_images_that_are_not_square(tmp_path, capsys):
    folder = class_folders(tmp_path / "photos", classes=2, size=(8, 12))
    images = ["--dataset", "folder", "--data-root", folder]
    arguments = [a for a in SMALL if a not in ("--image-size", "8")]
    assert run("train", *arguments, *images, "--out", tmp_path / "out") == 0
    capsys.readouterr()
    network = tmp_path / "out" / "baseline.json"
    assert run("evaluate", network, *images, "--precision", "fp32", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == records.read(tmp_path / "out" / "baseline.record.json")["results"]


# Using a network


def test_evaluate_is_what_the_record_says(trained, capsys):
    network = trained[0] / "seed-0" / "tskd.json"
    record = records.read(trained[0] / "seed-0" / "tskd.record.json")
    assert run("evaluate", network, "--precision", "fp32", "--json") == 0
    assert json.loads(capsys.readouterr().out) == record["results"]
    assert run("evaluate", network, "--precision", "fp32") == 0
    lines = capsys.readouterr().out.splitlines()
    cost = record["cost"]
    table = records.answers(record["results"], cost["parameters"], cost["flops"])
    assert lines[0] == "| answer | accuracy | top5 | nll | ece | parameters | flops |"
    for line, (answer, row) in zip(lines[2:], table.iterrows()):
        assert line == (
            f"| {answer} | {100 * row.accuracy:.2f}% | {100 * row.top5:.2f}% | {row.nll:.3f} | "
            f"{row.ece:.3f} | {int(row.parameters):,} | {row.flops / 1e6:.1f} M |"
        )
    oracle = f"{100 * record['results']['oracle']:.2f} % of 50 images"
    assert len(lines) == 2 + len(table) + 2 and oracle in lines[-1]


def test_evaluate_normalises_as_in_training(copied, capsys):
    path = copied / "seed-0" / "tskd.json"
    edit(path, lambda about: about.update(mean=[0.9], std=[0.5]))
    assert run("evaluate", path, "--precision", "fp32", "--json") == 0
    network, _ = checkpoints.load_network(path)
    test = dataclasses.replace(data.load("digits", image_size=8)[1], mean=(0.9,), std=(0.5,))
    assert json.loads(capsys.readouterr().out) == training.evaluate(network, test, "fp32")


def test_evaluate_says_when_its_images_are_not_those_of_the_record(copied, capsys):
    record = copied / "seed-0" / "tskd.record.json"
    assert run("evaluate", record.with_name("tskd.json")) == 0
    assert capsys.readouterr().err == ""
    edit(record, lambda about: about["data"].update({"test sha256": "0" * 64}))
    assert run("evaluate", record.with_name("tskd.json")) == 0
    assert capsys.readouterr().err == f"tskd: these are not the test images of {record}\n"


@pytest.mark.parametrize("rule", [None, "majority", "logit"])
@pytest.mark.parametrize("threshold", [0, "median", 2])
def test_predict_is_early_exit(trained, tmp_path, capsys, rule, threshold):
    path = trained[0] / "seed-0" / "tskd.json"
    paths = photos(tmp_path, 6)
    network, about = checkpoints.load_network(path)
    pixels = data.to_tensor(files.read_images(paths, 1, (8, 8)))
    with torch.inference_mode():
        logits = network(data.normalise(pixels, about["mean"], about["std"])).logits
    if threshold == "median":
        first = anytime.simulate(logits, 0, rule).scores.amax(1)
        threshold = first.sort().values[2:4].mean().item()
    expected = anytime.simulate(logits, threshold, rule)
    options = ["--threshold", threshold, *(["--vote", rule] if rule else [])]
    assert run("predict", path, *paths, *options, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == [str(p) for p in paths]
    assert [row["class"] for row in rows] == [str(c) for c in expected.scores.argmax(1).tolist()]
    assert [row["exit"] for row in rows] == (expected.exits + 1).tolist()
    confidence = expected.scores.amax(1).tolist()
    assert [row["confidence"] for row in rows] == pytest.approx(confidence, abs=1e-5)
    assert all(set(row) == {"file", "class", "confidence", "exit"} for row in rows)
    assert run("predict", path, *paths, *options) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["file", "class", "confidence", "exit"]
    assert len({len(line) for line in (header, *lines)}) == 1, "the columns are aligned"
    for line, row in zip(lines, rows, strict=True):
        assert line.startswith(row["file"])
        parts = line[len(row["file"]) :].split()
        assert parts == [row["class"], f"{100 * row['confidence']:.1f}%", str(row["exit"])]


def test_predict_runs_no_stage_after_the_exit(trained, tmp_path, monkeypatch):
    path, advance, reached = trained[0] / "seed-0" / "tskd.json", MultiExitNet.advance, []

    def look(self, hidden, exit):
        reached.append(exit)
        return advance(self, hidden, exit)

    monkeypatch.setattr(MultiExitNet, "advance", look)
    assert run("predict", path, *photos(tmp_path), "--threshold", 0) == 0
    assert reached == [0]


def test_predict_takes_many_files_of_any_size(trained, tmp_path, capsys):
    path = trained[0] / "seed-0" / "tskd.json"
    small, large = photos(tmp_path, 1)[0], tmp_path / "large.jpg"
    Image.open(small).convert("RGB").resize((40, 30)).save(large)
    assert run("predict", path, *[small, large] * 150, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 300
    for one, other in zip(rows[:2], rows[-2:]):
        assert one["confidence"] == pytest.approx(other.pop("confidence"), abs=1e-5)
        del one["confidence"]
        assert one == other


def test_report_writes_the_tables(trained, tmp_path, capsys):
    folder = trained[0]
    before = hashes(folder)
    assert run("report", folder, "--out", tmp_path / "new") == 0
    printed = capsys.readouterr().out
    table = records.frame(records.read_all(folder))
    assert printed.startswith(f"## digits\n\n{records.markdown(records.summary(table))}\n")
    assert (tmp_path / "new" / "report.md").read_text("utf-8") == printed
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "report.csv"), table)
    found = {path.name: path for path in (tmp_path / "new").iterdir()}
    tables = report.tables(table)["digits"]
    names = [f"digits-{kind.replace(' ', '-')}.csv" for kind in tables]
    assert set(found) == {"report.md", "report.csv", *names} and hashes(folder) == before
    for name, expected in zip(names, tables.values()):
        written = pd.read_csv(found[name], index_col=0, dtype=str, keep_default_na=False)
        assert written.to_numpy().tolist() == expected.astype(str).to_numpy().tolist()
        assert [*written.index] == [*expected.index] and [*written] == [*expected]
    assert run("report", folder) == 0
    assert capsys.readouterr().out == printed


def test_report_keeps_experiments_apart(trained, tmp_path, capsys):
    for name in ("a", "b"):
        for record in records.read_all(trained[0] / "seed-0"):
            path = tmp_path / name / f"{record['method']}.record.json"
            records.write({**record, "experiment": f"experiment {name}"}, path)
    assert run("report", tmp_path) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line[:1] == "#"] == [
        "## experiment a",
        "## experiment b",
    ]
    assert "±" not in out


# What is wrong


def assert_one_sentence(capsys, code, *parts, bars=False):
    """Exit code 2 and one line on stderr; progress bars may stand before it."""
    said = capsys.readouterr()
    assert code == 2
    lines = said.err.splitlines()
    if bars:
        lines = lines[-1:]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("tskd: ")
    assert "Traceback" not in said.err and "None" not in lines[0]
    for part in parts:
        assert re.search(part, lines[0]), lines[0]


@pytest.fixture
def no_training(monkeypatch):
    """What is wrong must be noticed before anything is trained."""

    def fail(*arguments, **options):
        raise AssertionError("trained")

    monkeypatch.setattr(training.Run, "train_epoch", fail)


BAD_OPTIONS = [
    ("train --dataset folder --data-root ~nosuchuser/x", "~nosuchuser/x cannot be read"),
    ("train --weights label_deepest=0", "every weight of baseline is zero"),
    ("train --weights temperature=2", "baseline has no soft targets that a temperature"),
    (
        "train --method byot --weights label=0 label_deepest=0 smoothing=0.1",
        "byot has no labels that smoothing would change",
    ),
    ("train --teacher NETWORK", "baseline does not learn from a teacher: leave out --teacher"),
    (
        "compare --methods baseline byot --teacher NETWORK --teacher-width 1",
        "no method here has a teacher: leave out --teacher, --teacher-width",
    ),
    (
        "compare --teacher NETWORK --teacher-network resnet8 --teacher-epochs 1",
        "that teacher is trained already: leave out --teacher-network, --teacher-epochs",
    ),
    ("train --epochs 0", "--epochs: '0' should be a whole number from 1"),
    ("train --epochs 1.5", "--epochs: '1.5' should be a whole number"),
    ("compare --epochs 0", "--epochs"),
    ("compare --epochs -3", "--epochs"),
    ("compare --teacher-epochs 0", "--teacher-epochs"),
    ("train --batch-size 0", "--batch-size"),
    ("train --learning-rate nan", "--learning-rate: 'nan' should be a number above 0"),
    ("train --learning-rate 0", "--learning-rate"),
    ("train --learning-rate inf", "--learning-rate"),
    ("train --learning-rate fast", "--learning-rate: 'fast'"),
    ("train --weight-decay -1", "--weight-decay"),
    ("train --clip 0", "--clip"),
    ("train --width 0", "--width"),
    ("train --width -0.5", "--width"),
    ("train --width nan", "--width"),
    ("train --width 1e99", "--width"),
    ("compare --teacher-width 0", "--teacher-width"),
    ("train --seed -1", "--seed"),
    ("train --seed 99999999999999999999", "--seed"),
    ("compare --seeds 0 -1", "--seeds: '-1'"),
    ("compare --seeds", "--seeds"),
    ("train --per-class 0", "--per-class"),
    ("train --per-class -5", "--per-class"),
    ("train --subset-seed -1", "--subset-seed"),
    ("train --subset-seed 1", "--subset-seed draws the images of --per-class: give that too"),
    ("train --image-size 0", "--image-size"),
    ("train --image-size 99999", "--image-size: '99999' should be a whole number from 1 to 16384"),
    ("compare --image-size -8", "--image-size"),
    ("evaluate NETWORK --image-size 0", "--image-size"),
    ("train --network resnet9", "--network: invalid choice: 'resnet9' .*resnet18"),
    ("compare --teacher-network lenet", "--teacher-network: invalid choice: 'lenet'"),
    ("train --stem mine", "--stem"),
    ("train --strength strong", "--strength"),
    ("train --precision fp16", "fp16 is for GPUs: on a CPU take the precision bf16, fp32 or auto"),
    ("train --schedule steps", "--schedule"),
    ("train --precision fp8", "--precision"),
    ("train --method dkd", "--method: invalid choice: 'dkd' .*tskd"),
    ("compare --methods tskd dkd", "--methods"),
    ("train --weights teacher=-1", "--weights: '-1' should be a number from 0"),
    ("train --weights label=nan", "--weights"),
    ("train --weights label=inf", "--weights"),
    ("train --weights label", "--weights"),
    ("train --weights label=much", "--weights: 'much'"),
    ("train --weights exits=2", "unknown weight 'exits'; known are label"),
    ("train --weights temperature=0", "temperature must be positive"),
    ("train --weights smoothing=1", "smoothing must be from 0 to below 1"),
    ("train --method kd --weights label=1 self_=1", "one exit, on which label and self_ would"),
    ("train --method kd", "kd learns from a teacher: give --teacher"),
    ("train --weights teacher=1", "baseline learns from a teacher: give --teacher"),
    ("predict NETWORK PHOTO --threshold nan", "--threshold"),
    ("predict NETWORK PHOTO --threshold -0.1", "--threshold"),
    ("predict NETWORK PHOTO --threshold 90", "--threshold: '90' should be a number from 0 to 2"),
    ("predict NETWORK PHOTO --vote best", "--vote"),
    ("predict NETWORK", "images"),
    ("bench --rounds 0", "rounds"),
    ("bench --out TMP", "TMP is a folder; name a file"),
    ("bench --out PHOTO/bench.json", "PHOTO is a file; give a folder"),
    ("", "COMMAND"),
    ("learn", "invalid choice: 'learn'"),
    ("train --colour blue", "--colour"),
    # unknown data sets, and what a data set cannot give
    ("train --dataset mnist", "unknown data set 'mnist'; known are digits, cifar10"),
    ("compare --dataset mnist", "unknown data set 'mnist'"),
    ("evaluate NETWORK --dataset mnist", "unknown data set 'mnist'"),
    ("train --data-root TMP", "digits are embedded and have no --data-root: give --dataset"),
    ("evaluate NETWORK --data-root TMP", "digits are embedded and have no --data-root"),
    ("train --dataset folder", "a folder of images needs --data-root"),
    ("train --dataset folder --data-root TMP/none", "TMP/none cannot be read .*expected a folder"),
    ("train --dataset folder --data-root PHOTO", "PHOTO cannot be read .*expected a folder"),
    ("compare --dataset folder --data-root TMP", "TMP needs a folder of images for each"),
    ("compare --per-class 1000", "digits has 15 to take from each class, 1000 asked for"),
    ("compare --image-size 2 --network vgg11", "too small for vgg11"),
    ("compare --image-size 8 --network alexnet --stem imagenet", "too small for alexnet"),
    # files that are missing or of another kind
    ("train --method kd --teacher TMP/no.json", "no checkpoint file TMP/no.json"),
    ("compare --teacher TMP/no.json", "no checkpoint file TMP/no.json"),
    ("compare --teacher PHOTO", "not a checkpoint of tskd"),
    ("evaluate TMP/no.json", "no checkpoint file TMP/no.json"),
    ("evaluate RECORD", "not a checkpoint of tskd"),
    ("evaluate TMP", "TMP cannot be read"),
    ("predict TMP/no.json PHOTO", "no checkpoint file TMP/no.json"),
    ("predict NETWORK TMP/no.png", "TMP/no.png cannot be read as an image"),
    ("predict NETWORK PHOTO NETWORK", "NETWORK cannot be read as an image"),
    ("predict NETWORK TMP", "TMP cannot be read as an image"),
    ("report TMP/none", "there are no records .* in TMP/none"),
    ("report TMP", "there are no records"),
    # an output folder that is none
    ("train --out PHOTO", "PHOTO is a file; give a folder"),
    ("compare --out PHOTO", "PHOTO is a file; give a folder"),
    ("compare --out PHOTO/below", "PHOTO is a file; give a folder"),
    ("report RUNS --out PHOTO", "PHOTO is a file; give a folder"),
]


@pytest.mark.parametrize(("line", "message"), BAD_OPTIONS, ids=[line for line, _ in BAD_OPTIONS])
def test_what_is_asked_for_is_wrong(
    trained, tmp_path, monkeypatch, capsys, no_training, line, message
):
    photo = photos(tmp_path, 1)[0].rename(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    names = {"PHOTO": photo, "TMP": tmp_path, "RUNS": trained[0]}
    names["NETWORK"] = trained[0] / "seed-0" / "tskd.json"
    names["RECORD"] = trained[0] / "seed-0" / "tskd.record.json"

    def fill(text):
        return re.sub("|".join(names), lambda match: str(names[match[0]]), text)

    before = hashes(tmp_path), hashes(trained[0])
    code = run(*(fill(word) for word in line.split()))
    assert_one_sentence(capsys, code, fill(message))
    assert (hashes(tmp_path), hashes(trained[0])) == before
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [], "no folder was made"


def test_other_settings_refuse_what_is_there(trained, copied, capsys, no_training):
    before = hashes(copied)
    for change in (["--learning-rate", "0.01"], ["--width", "0.5"], ["--per-class", "4"]):
        arguments = [*trained[1][:-1], copied, *change]
        assert_one_sentence(capsys, run(*arguments), "other settings; give another folder")
        assert hashes(copied) == before


def damage_weights(folder, name):
    weights = next((folder / name).parent.glob(f"{Path(name).stem}-*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)


def described(change):
    """A damage to what the JSON of a network says."""
    return lambda folder: edit(folder / "seed-0/tskd.json", change)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: damage_weights(folder, "seed-0/tskd.json"), "is damaged"),
        (lambda folder: (folder / "seed-0/tskd.json").write_text("{"), "not a checkpoint"),
        (lambda folder: (folder / "seed-0/tskd.json").write_bytes(b"\0\xff"), "not a checkpoint"),
        (
            lambda folder: [p.unlink() for p in (folder / "seed-0").glob("tskd-*")],
            "no checkpoint file .*safetensors",
        ),
        (
            lambda folder: (
                shutil.copy(folder / "seed-0/baseline.json", folder / "seed-0/tskd.json")
                and edit(folder / "seed-0/tskd.json", lambda a: a["network"].update(width=1))
            ),
            "do not fit",
        ),
        (described(lambda a: a.pop("classes")), "do not fit"),
        (described(lambda a: a.update(classes=[*range(10)])), "not all text"),
        (described(lambda a: a.update(mean=[None])), "do not fit"),
        (described(lambda a: a.update(mean=[math.inf])), "do not fit"),
        (described(lambda a: a.update(std=[0.0])), "do not fit"),
        (
            lambda folder: (folder / "seed-0/tskd.json").write_text("[" * 100_000),
            "is not a checkpoint",
        ),
    ],
)
def test_a_corrupt_checkpoint(copied, tmp_path, capsys, damage, message):
    photo = photos(tmp_path, 1)[0]
    damage(copied)
    before = hashes(copied)
    network = copied / "seed-0" / "tskd.json"
    for arguments in (["evaluate", network], ["predict", network, photo]):
        assert_one_sentence(capsys, run(*arguments), message)
    arguments = ["train", *SMALL, "--method", "kd", "--teacher", network, "--out", copied / "new"]
    assert_one_sentence(capsys, run(*arguments), message)
    assert hashes(copied) == before


def edit(path, change):
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def test_a_corrupt_teacher_of_an_unfinished_comparison(trained, copied, capsys, no_training):
    damage_weights(copied, "teacher/teacher.json")
    shutil.rmtree(copied / "seed-3")
    before = hashes(copied)
    assert_one_sentence(capsys, run(*trained[1][:-1], copied), "is damaged")
    assert hashes(copied) == before


def test_a_corrupt_state(trained, copied, capsys, no_training):
    state = experiments.state_path(copied / "seed-0", ["tskd", "baseline"])
    state.parent.mkdir()
    state.write_text('{"weights": "gone.safetensors", "sha256": ""}')
    before = hashes(copied)
    assert_one_sentence(capsys, run(*trained[1][:-1], copied), "there is no checkpoint file .*gone")
    assert hashes(copied) == before


def test_a_corrupt_record(trained, copied, capsys, no_training):
    for content in ("{", "{}", '{"format": NaN}', "[" * 100_000):
        (copied / "seed-0" / "tskd.record.json").write_text(content)
        before = hashes(copied)
        for arguments in (["report", copied], [*trained[1][:-1], copied]):
            assert_one_sentence(capsys, run(*arguments), "tskd.record.json is not")
        assert hashes(copied) == before


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tiff"])
def test_a_corrupt_image(trained, tmp_path, capsys, no_training, kind):
    folder = class_folders(tmp_path / "photos")
    broken = folder / "class 1" / f"broken.{kind}"
    Image.new("RGB", (8, 8), "red").save(broken)
    broken.write_bytes(broken.read_bytes()[:50])
    network, out = trained[0] / "seed-0" / "tskd.json", tmp_path / "out"
    message = f"{broken} cannot be read as an image"
    assert_one_sentence(capsys, run("predict", network, broken), message)
    images = ["--dataset", "folder", "--data-root", folder]
    assert_one_sentence(capsys, run("train", *SMALL, *images, "--out", out), message)
    assert not out.exists()


def test_images_of_mixed_sizes(tmp_path, monkeypatch, capsys, no_training):
    folder = class_folders(tmp_path / "photos")
    Image.new("RGB", (9, 9)).save(folder / "class 0" / "odd.png")
    monkeypatch.chdir(tmp_path)
    code = run("train", "--dataset", "folder", "--data-root", folder)
    assert_one_sentence(capsys, code, "odd.png is 9 x 9.*give an image size")


def test_a_wrong_class_count(trained, tmp_path, capsys, no_training):
    folder = class_folders(tmp_path / "photos")
    network = trained[0] / "seed-0" / "tskd.json"
    images = ["--dataset", "folder", "--data-root", folder]
    code = run("evaluate", network, *images)
    assert_one_sentence(capsys, code, "trained on 10 classes .* folder has 2 .*choose the data set")
    code = run("evaluate", network, "--image-size", "9")
    assert_one_sentence(capsys, code, r"\(1, 8, 8\).*\(1, 9, 9\)")


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_teacher_that_does_not_fit(trained, tmp_path, capsys, no_training, command):
    folder = class_folders(tmp_path / "photos")
    teacher, out = trained[0] / "teacher" / "teacher.json", tmp_path / "out"
    choice = ["--method", "kd"] if command == "train" else ["--methods", "baseline", "kd"]
    arguments = [command, *SMALL, *choice, "--teacher", teacher, "--out", out]
    code = run(*arguments, "--dataset", "folder", "--data-root", folder)
    assert_one_sentence(capsys, code, "the teacher knows 10 classes of images of 1 x", "folder")
    assert hashes(tmp_path / "out") == {}


def test_labels_out_of_range(tmp_path, monkeypatch, capsys, no_training):
    kind, lists = torchvision.datasets.CIFAR100, {}
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    parts = {"train": [0, 1], "test": [0, 100]}
    for name, labels in parts.items():
        entry = {"data": np.zeros((2, 3072), np.uint8), "fine_labels": labels}
        (folder / name).write_bytes(pickle.dumps(entry))
    names = {"fine_label_names": [str(i) for i in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names))
    for name in ("train", "test", "meta"):
        lists[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(kind, "train_list", [["train", lists["train"]]])
    monkeypatch.setattr(kind, "test_list", [["test", lists["test"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": lists["meta"]})
    arguments = ["train", "--dataset", "cifar100", "--data-root", tmp_path]
    code = run(*arguments, "--out", tmp_path / "out")
    assert_one_sentence(capsys, code, "labels go from 0 to 100, but 100 classes need 0 to 99")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", files.TORCHVISION)
def test_offline(tmp_path, monkeypatch, capsys, no_training, name):
    kind = getattr(torchvision.datasets, files.TORCHVISION[name][0])
    for attribute, value in (
        ("url", "http://127.0.0.1:9/x.tar.gz"),
        ("mirrors", ["http://127.0.0.1:9/"]),
    ):
        monkeypatch.setattr(kind, attribute, value, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    root, out = tmp_path / "data", tmp_path / "out"
    code = run("compare", "--dataset", name, "--data-root", root, "--out", out)
    expected = re.escape(str(root / files.TORCHVISION[name][1]))
    assert_one_sentence(capsys, code, f"{name} could not be downloaded.*its files in {expected}")
    assert set(hashes(tmp_path)) == {f"data/{files.LOCK}"} and not out.exists()


def test_an_unreadable_folder(tmp_path, monkeypatch, capsys, no_training):
    folder, real = class_folders(tmp_path / "photos"), os.scandir

    def scandir(path="."):
        if Path(os.fsdecode(path)).name == "class 1":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    code = run("train", "--dataset", "folder", "--data-root", folder, "--out", tmp_path / "out")
    assert_one_sentence(capsys, code, f"class 1 cannot be read \\({os.strerror(errno.EACCES)}")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_without_permission(tmp_path, monkeypatch, capsys, no_training):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for command in ("train", "compare"):
        code = run(command, "--out", tmp_path / "new" / "out")
        assert_one_sentence(capsys, code, f"{tmp_path} may not be written to; give another folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writes", [0, 1, 2, 3, 4, 5])
def test_a_full_disk(trained, copied, monkeypatch, capsys, writes):
    """With room for so many files only: what is complete stays, and the rest can follow."""
    shutil.rmtree(copied / "seed-3")
    before, calls, real = hashes(copied), [], os.fsync

    def full(file):
        calls.append(file)
        if len(calls) > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code = run(*trained[1][:-1], copied)
    reason = os.strerror(errno.ENOSPC)
    assert_one_sentence(capsys, code, f"{copied / 'seed-3'}.*: {reason}$", bars=True)
    after = hashes(copied)
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in after if name.endswith(".partial")]
    assert run(*trained[1][:-1], copied) == 0
    assert set(hashes(copied)) == set(hashes(trained[0]))


def test_report_on_a_full_disk(trained, tmp_path, monkeypatch, capsys):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "report.md").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    code = run("report", trained[0], "--out", tmp_path)
    assert_one_sentence(capsys, code, f"report.md: {os.strerror(errno.ENOSPC)}")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"report.md": "old"}


def test_a_folder_of_records_that_cannot_be_read(trained, monkeypatch, capsys):
    real = os.scandir

    def scandir(path="."):
        if Path(os.fsdecode(path)).name == "seed-3":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    reason = os.strerror(errno.EACCES)
    assert_one_sentence(capsys, run("report", trained[0]), f"seed-3 cannot be read \\({reason}\\)")


def test_a_compiler_that_does_not_work(tmp_path, monkeypatch, capsys):
    from torch._inductor.exc import CppCompileError

    def fit(*_):
        raise CppCompileError(["g++", "-O3"], "fatal error: no such file")

    monkeypatch.setattr(experiments, "fit", fit)
    code = run("train", *SMALL, "--compile", "--out", tmp_path / "out")
    assert_one_sentence(capsys, code, "does not work here .*no such file.*; leave out --compile")


def test_a_loss_that_is_not_finite(tmp_path, capsys):
    arguments = ["train", *SMALL, "--learning-rate", "1e9", "--epochs", "9"]
    code = run(*arguments, "--out", tmp_path / "out")
    message = "baseline: .* at epoch .*last good checkpoint.*lower learning rate"
    assert_one_sentence(capsys, code, message, bars=True)
    assert not (tmp_path / "out" / "baseline.json").exists()


def test_the_table_of_a_comparison_has_its_own_runs_only_and_each_once(trained, copied, capsys):
    shutil.copytree(copied / "seed-0", copied / "earlier" / "seed-0")
    arguments = [*trained[1][:-2], "0", "--out", copied]
    assert arguments[-5:-2] == ["0", "3", "0"]
    assert run(*arguments) == 0
    assert capsys.readouterr().out == trained[2]


def test_an_error_without_a_number_and_one_of_many_lines(monkeypatch, capsys):
    for error, message in {
        OSError("just words"): "^tskd: bench: just words$",
        BrokenProcessPool("a child"): "^tskd: a process of this command was killed",
        MemoryError(): "^tskd: there is not enough memory; choose a smaller network",
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"): "enough memory",
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to"): "enough memory",
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"): "enough memory",
        ValueError("one\n  two"): "^tskd: one two$",
    }.items():

        def fail(*arguments, error=error):
            raise error

        monkeypatch.setattr(bench, "measure", fail)
        assert_one_sentence(capsys, run("bench"), message)


# As a program


def program(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", "tskd_lib", *map(str, arguments)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        text=True,
        env=environment,
        cwd=Path(__file__).resolve().parents[1],
        timeout=300,
    )


def test_the_program_ends_with_its_code_and_one_sentence(tmp_path):
    done = program("evaluate", tmp_path / "none.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"tskd: there is no checkpoint file {tmp_path / 'none.json'}\n"


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_closed_output_is_no_error(trained):
    command = f'exec "{sys.executable}" -m tskd_lib report "{trained[0]}" >&-'
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_results_can_go_below_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(os.path, "expanduser", lambda path: str(path).replace("~", str(tmp_path)))
    assert output_folder("~/runs") == tmp_path / "runs"
    assert output_file("~/bench.json") == tmp_path / "bench.json"


def test_a_removed_working_folder_is_one_sentence(monkeypatch, tmp_path, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert run("report", "--out", "x") == 2
    assert "this folder was removed; change to another" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full here")
def test_an_output_that_cannot_be_written(trained):
    with open("/dev/full", "w") as full:
        done = program("report", trained[0], stdout=full)
    assert (done.returncode, done.stderr) == (2, f"tskd: report: {os.strerror(errno.ENOSPC)}\n")
