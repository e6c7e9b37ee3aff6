"""Records: checked on the way in and out, and tables that are what a hand would compute."""

import copy
import errno
import json
import os
import re
import subprocess

import pandas as pd
import pytest
import torch

from tskd_lib import __version__, records
from tskd_lib.losses import PRESETS
from tskd_lib.records import RecordError, answers, check, frame, markdown, read, read_all, summary

RULES = ("majority", "probability", "logit", "geometric")
COMMITTED = sorted(records.COMMITTED.rglob("*.record.json"))


def quality(accuracy):
    return {"accuracy": accuracy, "top5": 0.9, "nll": 1.5, "ece": 0.125}


def make(method="tskd", seed=0, exits=(0.5, 0.75), vote=0.875, experiment="digits"):
    """A record that follows the schema, with these accuracies."""
    count = len(exits)
    return {
        "format": 1,
        "experiment": experiment,
        "method": method,
        "seed": seed,
        "configuration": {"network": {}, "objective": {}, "recipe": {}, "teacher": "a" * 64},
        "data": {
            "name": "digits",
            "classes": 10,
            "image shape": [1, 16, 16],
            "train images": 100,
            "train sha256": "b" * 64,
            "test images": 50,
            "test sha256": "c" * 64,
        },
        "provenance": records.provenance(torch.device("cpu"), 1, "fp32"),
        "cost": {
            "seconds": 1.5,
            "shared seconds": 0.5,
            "images per second": 1000.0,
            "parameters": [100 * (i + 1) for i in range(count)],
            "flops": [1000 * (i + 1) for i in range(count)],
        },
        "curve": [
            {"epoch": 1, "lr": 0.1, "total": 2.0, "seconds": 1.5, "label": 2.0, "accuracy": [0.5]}
        ],
        "results": {
            "exits": [quality(accuracy) for accuracy in exits],
            "votes": {rule: quality(vote) for rule in RULES},
            "oracle": 0.9,
        },
        "weights sha256": "d" * 64,
    }


@pytest.fixture(scope="module")
def record():
    return make()


def at(record, place):
    for step in place:
        record = record[step]
    return record


def changed(record, place, value):
    record = copy.deepcopy(record)
    at(record, place[:-1])[place[-1]] = value
    return record


def places(schema, place=()):
    """Where the schema requires something, as keys into a record."""
    for key in schema.get("required", ()):
        yield (*place, key)
        yield from places(schema.get("properties", {}).get(key, {}), (*place, key))
    if "items" in schema:
        yield from places(schema["items"], (*place, 0))
    if place == ("results", "votes"):
        yield from places(schema["additionalProperties"], (*place, "majority"))


REQUIRED = list(places(records.SCHEMA))


def refused(record, tmp_path, place, message=""):
    """The record must be refused by check, by write and by read, each time naming the place."""
    where = re.escape(" > ".join(map(str, place)) or "top level")
    path = tmp_path / "x.record.json"
    with pytest.raises(
        RecordError, match=f"the record is not a valid record: {where}: .*{message}"
    ):
        check(record)
    with pytest.raises(RecordError, match=f"x.record.json is not a valid record: {where}: "):
        records.write(record, path)
    assert not path.exists()
    path.write_text(json.dumps(record))
    with pytest.raises(RecordError, match=f"x.record.json is not a valid record: {where}: "):
        read(path)


def test_what_is_written_is_read(record, tmp_path):
    path = tmp_path / "new" / "x.record.json"
    records.write(record, path)
    assert read(path) == record == check(record)
    assert [p.name for p in path.parent.iterdir()] == ["x.record.json"]


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "x.record.json"
    records.write(make(), path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        records.write(make(seed=1), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_the_schema_requires_every_part(record):
    assert len(REQUIRED) > 45
    for place in REQUIRED:
        at(record, place)


@pytest.mark.parametrize("place", REQUIRED, ids=lambda place: " > ".join(map(str, place)))
def test_a_missing_field_is_named(record, tmp_path, place):
    broken = copy.deepcopy(record)
    del at(broken, place[:-1])[place[-1]]
    refused(broken, tmp_path, place[:-1], f"'{place[-1]}' is a required property")


@pytest.mark.parametrize("place", REQUIRED, ids=lambda place: " > ".join(map(str, place)))
def test_a_field_of_another_type_is_named(record, tmp_path, place):
    wrong = {"unexpected": 1} if not isinstance(at(record, place), dict) else "text"
    refused(changed(record, place, wrong), tmp_path, place)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format",), 2),
        (("seed",), -1),
        (("seed",), 1.5),
        (("seed",), True),
        (("results", "oracle"), 1.01),
        (("results", "exits", 1, "accuracy"), -0.1),
        (("results", "votes", "logit", "ece"), 2),
        (("results", "exits"), []),
        (("curve",), []),
        (("curve", 0, "label"), "low"),
        (("curve", 0, "accuracy", 0), None),
        (("cost", "seconds"), True),
        (("cost", "flops", 0), -5),
        (("data", "train sha256"), "0" * 63),
        (("weights sha256",), "G" * 64),
        (("provenance", "versions", "torch"), 2),
        (("provenance", "started"), "yesterday"),
    ],
)
def test_a_value_out_of_range_is_named(record, tmp_path, place, value):
    refused(changed(record, place, value), tmp_path, place)


@pytest.mark.parametrize("field", ["parameters", "flops"])
def test_every_exit_has_its_cost(record, tmp_path, field):
    shorter = changed(record, ("cost", field), record["cost"][field][:-1])
    refused(shorter, tmp_path, ("cost",), "exits need a number each")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "place",
    [
        ("results", "exits", 0, "nll"),
        ("results", "exits", 0, "accuracy"),
        ("results", "votes", "majority", "nll"),
        ("cost", "images per second"),
        ("curve", 0, "total"),
        ("curve", 0, "label"),
        ("curve", 0, "accuracy", 0),
    ],
)
def test_what_is_not_a_finite_number_is_refused(record, tmp_path, place, value):
    refused(changed(record, place, value), tmp_path, place)


@pytest.mark.parametrize(
    "place",
    [
        (),
        ("configuration",),
        ("data",),
        ("provenance",),
        ("cost",),
        ("results",),
        ("results", "exits", 0),
    ],
)
def test_unknown_fields_are_refused(record, tmp_path, place):
    refused(changed(record, (*place, "surprise"), 1), tmp_path, place, "surprise")


def test_nulls_where_they_mean_something(record):
    for place in (
        ("configuration", "teacher"),
        ("provenance", "git commit"),
        ("provenance", "git clean"),
    ):
        check(changed(record, place, None))


def test_files_that_are_no_records(record, tmp_path):
    path = tmp_path / "x.record.json"
    with pytest.raises(RecordError, match="x.record.json cannot be read"):
        read(path)
    for content in (b"", b"{", b"\xff", json.dumps(record)[:-5].encode()):
        path.write_bytes(content)
        with pytest.raises(RecordError, match="x.record.json is not JSON"):
            read(path)
    for content in ("[]", "5", "null"):
        path.write_text(content)
        with pytest.raises(RecordError, match="not a valid record: top level"):
            read(path)


def test_all_records_below_a_folder(tmp_path):
    with pytest.raises(RecordError, match=r"no records \(\*.record.json\) in .*nowhere"):
        read_all(tmp_path / "nowhere")
    with pytest.raises(RecordError, match="no records"):
        read_all(tmp_path)
    for seed, place in enumerate(("b/seed-1/kd", "a/kd", "b/seed-0/kd")):
        records.write(make("kd", seed), tmp_path / f"{place}.record.json")
    (tmp_path / "a" / "kd.json").write_text("a checkpoint")
    assert [record["seed"] for record in read_all(tmp_path)] == [1, 2, 0]
    (tmp_path / "a" / "broken.record.json").write_text("{}")
    with pytest.raises(RecordError, match="broken.record.json is not a valid record"):
        read_all(tmp_path)


# Tables


def test_answers_has_a_row_for_each_exit_and_vote(record):
    table = answers(record["results"], [100, 200], [1000, 2000])
    votes = [f"vote {rule}" for rule in RULES]
    assert list(table.index) == ["exit 1", "deepest", *votes]
    assert list(table.columns) == ["accuracy", "top5", "nll", "ece", "parameters", "flops"]
    assert table.accuracy.tolist() == [0.5, 0.75] + [0.875] * 4
    assert table.parameters.tolist() == [100, 200] + [200] * 4
    assert table.flops.tolist() == [1000, 2000] + [2000] * 4
    assert (table.nll == 1.5).all() and (table.ece == 0.125).all() and (table.top5 == 0.9).all()


def test_one_exit_has_no_vote():
    one = make("kd", exits=(0.5,))
    assert list(answers(one["results"], [100], [1000]).index) == ["deepest"]


def test_a_frame_has_a_row_for_each_run_and_answer():
    table = frame([make("kd", 3, (0.5,)), make("tskd", 4, (0.25, 0.5), experiment="other")])
    assert list(table.columns[:5]) == ["experiment", "method", "seed", "images", "data"]
    assert set(table.images) == {make("kd", 3, (0.5,))["data"]["train images"]}
    assert len(table) == 1 + 6 and list(table.index) == list(range(7))
    first = table.iloc[0]
    assert (first.experiment, first.method, first.seed, first.answer) == (
        "digits",
        "kd",
        3,
        "deepest",
    )
    rest = table.iloc[1:]
    assert (
        set(rest.experiment) == {"other"} and set(rest.seed) == {4} and set(rest.method) == {"tskd"}
    )
    assert rest.accuracy.tolist() == [0.25, 0.5] + [0.875] * 4


def test_the_summary_is_mean_and_deviation_over_seeds():
    several = [make("tskd", seed, (0.1 * seed, 0.5 + 0.1 * seed)) for seed in (1, 2, 4)]
    several += [make("teacher", 100, (0.9,))]
    several += [make("baseline", seed, (0.6 + 0.1 * seed,)) for seed in (0, 1)]
    table = summary(frame(several))
    assert list(table.index) == ["teacher", "baseline", "tskd"]
    votes = [f"vote {rule}" for rule in RULES]
    assert list(table.columns) == ["exit 1", "deepest", *votes]
    # mean of 10, 20, 40 is 23.33; deviation sqrt((13.33^2 + 3.33^2 + 16.67^2) / 2) = 15.28
    assert table.loc["tskd", "exit 1"] == "23.33 ± 15.28"
    assert table.loc["tskd", "deepest"] == "73.33 ± 15.28"
    assert table.loc["tskd", "vote majority"] == "87.50 ± 0.00"
    assert table.loc["baseline", "deepest"] == "65.00 ± 7.07"
    assert table.loc["teacher", "deepest"] == "90.00", "one seed has no deviation"
    assert table.loc["teacher", "exit 1"] == table.loc["baseline", "vote logit"] == ""


def test_the_summary_has_the_order_of_the_presets():
    shuffled = ["tskd", "mine", "kd", "byot", "teacher", "baseline", "multi_exit"]
    table = summary(frame([make(method) for method in shuffled]))
    assert list(table.index) == ["mine", "teacher", *PRESETS]


def test_markdown():
    table = pd.DataFrame(
        {"a": [1, 20, 300], "b": [0.123456, 2.0, 23456.7], "c": ["x", "y|z", ""]},
        index=["one", "two", "three"],
    )
    table = table.rename_axis("name")
    assert markdown(table).splitlines() == [
        "| name | a | b | c |",
        "| --- | ---: | ---: | ---: |",
        "| one | 1 | 0.1235 | x |",
        "| two | 20 | 2 | y\\|z |",
        "| three | 300 | 23457 |  |",
    ]


# Provenance


def git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A folder in which the library seems to be."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(records, "__file__", str(tmp_path / "lib" / "records.py"))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "records.py").write_text("# one\n")
    return tmp_path


def origin():
    found = records.provenance(torch.device("cpu"), 2, "bf16")
    return found["git commit"], found["git clean"]


def test_the_commit_and_whether_the_tree_is_clean(library):
    git(library, "init", "-q")
    git(library, "add", ".")
    git(library, "commit", "-qm", "one")
    head = git(library, "rev-parse", "HEAD")
    assert origin() == (head, True)
    (library / "lib" / "records.py").write_text("# two\n")
    assert origin() == (head, False)
    git(library, "commit", "-qam", "two")
    assert origin() == (git(library, "rev-parse", "HEAD"), True) != (head, True)
    (library / "new.txt").write_text("not added\n")
    assert origin()[1] is False


def test_no_repository_no_commit(library, monkeypatch):
    assert origin() == (None, None)
    git(library, "init", "-q")
    assert origin() == (None, None), "no commit yet"
    (library / ".gitignore").write_text("lib/\n")
    git(library, "add", ".")
    git(library, "commit", "-qm", "somebody else's")
    assert origin() == (None, None), "an installed copy is not of the repository around it"
    monkeypatch.setenv("PATH", str(library))
    assert origin() == (None, None), "no git"


def test_provenance_says_what_ran_on_what(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/bin/tskd", "train", "--out=/somewhere/my runs", "/x"])
    found = records.provenance(torch.device("cpu"), 2, "bf16")
    assert found["command"] == "tskd train '--out=my runs' x"
    monkeypatch.setattr(
        "sys.argv", ["tskd", "train", "--out", "/some/where/", "--data-root=C:\\p\\"]
    )
    assert records.provenance(torch.device("cpu"), 1, "fp32")["command"] == (
        "tskd train --out where --data-root=p"
    )
    monkeypatch.setattr("sys.argv", ["/lib/tskd_lib/__main__.py", "bench"])  # python -m tskd_lib
    assert records.provenance(torch.device("cpu"), 1, "fp32")["command"] == "tskd bench"
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert found["versions"]["tskd_lib"] == __version__
    assert {"python", "torchvision", "accelerate", "numpy"} < set(found["versions"])
    assert (found["device"], found["processes"], found["precision"]) == ("cpu", 2, "bf16")
    assert found["threads"] == torch.get_num_threads() and found["hardware"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["started"])


# The records of the book


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name + "/" + path.name)
def test_a_committed_record_is_valid(path):
    record = read(path)
    assert path.name == f"{record['method']}.record.json"
    assert len(record["curve"]) == record["configuration"]["recipe"]["epochs"]
    assert set(record["results"]["votes"]) == set(RULES)
    assert len(record["results"]["exits"]) == len(record["cost"]["flops"])
    assert record["cost"]["flops"] == sorted(record["cost"]["flops"])
    assert record["results"]["oracle"] >= max(e["accuracy"] for e in record["results"]["exits"])
    text = path.read_text("utf-8")
    assert not re.search(r"[\"' ](/|[A-Z]:\\\\)\w", text), "a path of one machine"


def test_the_committed_records_are_those_that_report_reads():
    digests = [read(path)["weights sha256"] for path in COMMITTED]
    assert digests and [record["weights sha256"] for record in read_all()] == digests
