"""One JSON record per run, with where it comes from; many of them as a table.

A record is written once, by the run itself, and checked against `SCHEMA` when it is written
and whenever it is read. Every number in the book that is not computed on the page comes from
one of these files.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .checkpoints import write_atomically
from .files import walk
from .losses import PRESETS

if TYPE_CHECKING:
    import pandas as pd

COMMITTED = Path(__file__).parent / "runs"
SUFFIX = ".record.json"


class RecordError(Exception):
    """A record that is missing or does not follow the schema; the message says where."""


def schema_object(required: dict, **optional: dict) -> dict:
    """JSON Schema of an object with these keys and no others."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


def many(items: dict) -> dict:
    """JSON Schema of a list of one or more of these."""
    return {"type": "array", "items": items, "minItems": 1}


TEXT, COUNT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"}
QUALITY = schema_object({"accuracy": SHARE, "top5": SHARE, "nll": NUMBER, "ece": SHARE})
SCHEMA = schema_object(
    {
        "format": {"const": 1},
        "experiment": TEXT,
        "method": TEXT,
        "seed": COUNT,
        "configuration": schema_object(
            {
                "network": {"type": "object"},
                "objective": {"type": "object"},
                "recipe": {"type": "object"},
                "teacher": {"anyOf": [{"type": "null"}, SHA256]},
            }
        ),
        "data": schema_object(
            {
                "name": TEXT,
                "classes": COUNT,
                "image shape": many(COUNT),
                "train images": COUNT,
                "train sha256": SHA256,
                "test images": COUNT,
                "test sha256": SHA256,
            },
            normalisation=many(many(NUMBER)),
        ),
        "provenance": schema_object(
            {
                "started": TIME,
                "command": TEXT,
                "git commit": {"type": ["string", "null"]},
                "git clean": {"type": ["boolean", "null"]},
                "versions": {"type": "object", "additionalProperties": TEXT},
                "device": TEXT,
                "hardware": TEXT,
                "threads": COUNT,
                "processes": COUNT,
                "precision": TEXT,
            }
        ),
        "cost": schema_object(
            {
                "seconds": NUMBER,
                "shared seconds": NUMBER,
                "images per second": NUMBER,
                "parameters": many(COUNT),
                "flops": many(COUNT),
            }
        ),
        "curve": many(
            {
                "type": "object",
                "required": ["epoch", "lr", "total", "seconds"],
                "additionalProperties": {"type": ["number", "array"], "items": NUMBER},
            }
        ),
        "results": schema_object(
            {
                "exits": many(QUALITY),
                "votes": {"type": "object", "additionalProperties": QUALITY},
                "oracle": SHARE,
            }
        ),
        "weights sha256": SHA256,
    }
)


@functools.cache
def _validator():
    from jsonschema import Draft202012Validator, validators

    def is_number(_, value) -> bool:
        if isinstance(value, float):
            return math.isfinite(value)
        return isinstance(value, int) and not isinstance(value, bool)

    types = Draft202012Validator.TYPE_CHECKER.redefine("number", is_number)
    return validators.extend(Draft202012Validator, type_checker=types)(SCHEMA)


def check(record: dict, name: str = "the record") -> dict:
    """The record itself, if it follows `SCHEMA` and has the cost of each exit.

    Its numbers must be finite.

    Raises:
        RecordError: naming the first place where it does not.
    """
    error = next(_validator().iter_errors(record), None)
    if error is not None:
        place = " > ".join(str(step) for step in error.absolute_path) or "top level"
        raise RecordError(f"{name} is not a valid record: {place}: {error.message[:200]}")
    exits, cost = len(record["results"]["exits"]), record["cost"]
    if not len(cost["parameters"]) == len(cost["flops"]) == exits:
        raise RecordError(f"{name} is not a valid record: cost: {exits} exits need a number each")
    return record


def write(record: dict, path: Path) -> None:
    """Write a record that follows the schema, whole or not at all."""
    content = json.dumps(check(record, str(path)), indent=1, allow_nan=False) + "\n"
    write_atomically(path, content.encode())


def read(path: Path) -> dict:
    """One record from its file.

    Raises:
        RecordError: for a file that is missing, is not JSON or breaks the schema.
    """
    return check(read_json(path), str(path))


def read_json(path: Path) -> object:
    """What a JSON file holds.

    Raises:
        RecordError: for a file that is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise RecordError(f"{path} is not JSON") from None


def read_all(folder: Path = COMMITTED) -> list[dict]:
    """Every record below a folder: each file named `*.record.json`, in order of its path.

    Raises:
        RecordError: where there is none, one is broken, or a folder cannot be read.
    """
    return [read(path) for path in find(folder, SUFFIX, "records")]


def find(folder: Path, suffix: str, what: str) -> list[Path]:
    """The files below a folder whose names end so, in order of their paths.

    Raises:
        RecordError: where there is none of `what` they hold, or a folder cannot be read.
    """
    try:
        paths = [path for path in walk(Path(folder)) if path.name.endswith(suffix)]
    except FileNotFoundError:
        paths = []
    except OSError as error:
        raise RecordError(f"{error.filename} cannot be read ({error.strerror})") from None
    if not paths:
        raise RecordError(f"there are no {what} (*{suffix}) in {folder}")
    return paths


def answers(results: dict, parameters: list[int], flops: list[int]) -> pd.DataFrame:
    """The results of one network as a DataFrame: a row for each exit and vote.

    The last exit is "deepest", those before it are "exit 1", "exit 2" and so on; a network of
    one exit has no vote. The columns: accuracy, top5, nll, ece (shares, not percent),
    parameters and flops up to there.
    """
    import pandas as pd

    exits = [f"exit {i + 1}" for i in range(len(results["exits"]) - 1)] + ["deepest"]
    rows = dict(zip(exits, results["exits"]))
    costs = dict(zip(exits, zip(parameters, flops)))
    if len(exits) > 1:
        rows |= {f"vote {rule}": quality for rule, quality in results["votes"].items()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["parameters"], table["flops"] = zip(*(costs.get(r, costs["deepest"]) for r in rows))
    return table.rename_axis("answer")


def frame(records: Iterable[dict]) -> pd.DataFrame:
    """The results of many runs as one DataFrame: a row for each run and exit or vote.

    Columns: experiment, method, seed, images (that it was trained on), data (their name), answer,
    the columns of `answers`, and the run's seconds, shared seconds and images per second.
    """
    import pandas as pd

    tables = []
    for record in records:
        cost = record["cost"]
        table = answers(record["results"], cost["parameters"], cost["flops"]).reset_index()
        for place, key in enumerate(("experiment", "method", "seed")):
            table.insert(place, key, record[key])
        table.insert(3, "images", record["data"]["train images"])
        table.insert(4, "data", record["data"]["name"])
        for key in ("seconds", "shared seconds", "images per second"):
            table[key] = cost[key]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _said(*command: str) -> str | None:
    """What a command prints, run in the folder of this library; None where it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def hardware(device: torch.device) -> str:
    """The name of the GPU, or of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        apple = _said("sysctl", "-n", "machdep.cpu.brand_string")  # CPU and GPU are one chip
        return apple or platform.processor() or platform.machine()


def provenance(device: torch.device, processes: int, precision: str) -> dict:
    """Where a run comes from: time, command, commit, versions and hardware, as of now.

    Commit and cleanness are None where git does not keep this library, as in an installed copy.
    Of absolute paths in the command only the name is kept: a record is made to be published.
    """
    ours = _said("git", "ls-files", "--error-unmatch", os.path.basename(__file__)) is not None
    status = _said("git", "status", "--porcelain") if ours else None
    packages = ("torch", "torchvision", "accelerate", "numpy")
    versions = {name: metadata.version(name) for name in packages}
    command = [part.rstrip("/\\") for part in sys.argv]
    command = [re.sub(r"(^|=)(/|[A-Za-z]:[\\/])(.*[\\/])?", r"\1", part) for part in command]
    program = os.path.basename(command[0])
    program = "tskd" if program == "__main__.py" else program  # python -m tskd_lib
    from . import __version__

    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([program, *command[1:]]),
        "git commit": _said("git", "rev-parse", "HEAD") if ours else None,
        "git clean": None if status is None else status == "",
        "versions": {"python": platform.python_version(), "tskd_lib": __version__, **versions},
        "device": device.type,
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "precision": precision,
    }


def command(record: dict) -> str:
    """What to type in a clone of the book to make this record anew."""
    typed = record["provenance"]["command"]
    return f"python scripts/{typed}" if typed.startswith("record_") else typed


def _in_order(methods: pd.Series) -> list[str]:
    """The methods of a column once each, in the order of `losses.PRESETS`, others first."""
    places = {method: place for place, method in enumerate(PRESETS)}
    return sorted(methods.unique(), key=lambda method: places.get(method, -1))


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in percent, methods by exits and votes: mean and deviation over seeds.

    Args:
        results: from `frame`.

    Returns:
        A DataFrame of text, one row a method in the order of `losses.PRESETS`, others (the
        teacher) first; "±" and the deviation where there are several seeds.
    """
    groups = (100 * results.accuracy).groupby([results.method, results.answer], sort=False)
    spread = groups.std()
    spread = spread.map(" ± {:.2f}".format).where(spread.notna(), "")
    cells = groups.mean().map("{:.2f}".format) + spread
    answers = sorted(results.answer.unique(), key=lambda a: (a.startswith("vote"), a == "deepest"))
    return cells.unstack().reindex(_in_order(results.method))[answers].fillna("")


def costs(results: pd.DataFrame) -> pd.DataFrame:
    """Parameters, MFLOPs for one image, seconds of training and images per second.

    Args:
        results: from `frame`.

    Returns:
        A DataFrame with a row for each method in the order of `summary`: size and FLOPs of the
        deepest exit with those before it, the medians over seeds of the rest. Seconds and images
        per second are of a student's own steps; its "shared seconds", of batches and teacher,
        served all methods that were trained side by side with it.
    """
    columns = ["parameters", "flops", "seconds", "shared seconds", "images per second"]
    deepest = results[results.answer == "deepest"]
    table = deepest.groupby("method")[columns].median().loc[_in_order(deepest.method)]
    table.insert(1, "MFLOPs", (table.pop("flops") / 1e6).round(1))
    return table.astype({"parameters": int})


def _shown(cell) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if abs(cell) >= 10_000 else f"{cell:.4g}"


def markdown(table: pd.DataFrame) -> str:
    """A DataFrame as a Markdown table, its index as the first column."""
    lines = [[table.index.name or "", *table.columns], ["---"] + ["---:"] * table.shape[1]]
    lines += [[label, *row] for label, row in zip(table.index, table.itertuples(index=False))]
    cells = [[_shown(cell) for cell in line] for line in lines]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
