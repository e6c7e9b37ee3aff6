"""Timing in turns, and what is reported of it: ratios, shares of a profile, a table.

Seconds say little about another machine, or about the same one an hour later; the ratio of two
things timed in turns says more. What is compared runs A B C A B C ..., after one untimed run
each. Reported is the median of the rounds' ratios, with the smallest and the largest.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

from . import records
from .checkpoints import write_atomically
from .progress import duration
from .recipes import default_device, synchronise

# What a profile is divided into: the first pattern that matches an operation's own name, or
# else the name of an operation around it. Besides, there are "optimiser" and "rest".
GROUPS = {
    "copies and casts": r"copy|aten::(to|clone|contiguous)$",
    "convolution backward": r"conv\w*backward",
    "convolution forward": r"conv",
    "batch norm": r"batch_?norm",
    "elementwise": r"relu|threshold|clamp|aten::(add|sub|mul|div|pow)_?$",
}
NUMBER, MAYBE = records.NUMBER, {"type": ["integer", "boolean", "null"]}
BAR = records.schema_object({}, at_least=NUMBER, at_most=NUMBER)
ROWS = {
    "results": records.schema_object(
        {"value": NUMBER, "low": NUMBER, "high": NUMBER, "bar": BAR, "reached": MAYBE}
    ),
    "timings": records.schema_object(
        {"seconds": records.many(NUMBER), "median": NUMBER}, **{"images per second": NUMBER}
    ),
    "profiles": {"type": "object", "additionalProperties": records.SHARE},
    "compile": records.schema_object(
        {}, reason=records.TEXT, seconds=NUMBER, **{"pays after steps": MAYBE}
    ),
}
SCHEMA = records.schema_object(
    {
        "format": {"const": 1},
        "provenance": records.SCHEMA["properties"]["provenance"],
        "rounds": {"type": "integer", "minimum": 1},
        "workload": {"type": "object"},
        **{part: {"type": "object", "additionalProperties": row} for part, row in ROWS.items()},
    }
)


def interleave(
    entrants: Mapping[str, Callable], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each entrant in each round, taken in turns after one untimed run of each."""
    device, seconds = default_device(), {name: [] for name in entrants}
    for _ in range(rounds + 1):
        for name, run in entrants.items():
            start = clock()
            run()
            synchronise(device)
            seconds[name].append(clock() - start)
    return {name: values[1:] for name, values in seconds.items()}


def take_turns(
    record: dict, entrants: Mapping[str, Callable], images: int | None = None
) -> dict[str, list[float]]:
    """`interleave`, noted in the record: with images/s where a run takes so many images."""
    turns = interleave(entrants, record["rounds"])
    for name, seconds in turns.items():
        row = record["timings"][name] = {"seconds": seconds, "median": median(seconds)}
        if images is not None:
            row["images per second"] = images / median(seconds)
    return turns


def ratios(above: Iterable[float], below: Iterable[float]) -> list[float]:
    """The one over the other, in each round."""
    return [a / b for a, b in zip(above, below)]


def judge(values: Sequence[float], **bar: float) -> dict:
    """Median and extremes of the rounds, and whether the median reaches its bar.

    Args:
        values: one for each round.
        **bar: `at_least` or `at_most`, where there is one.
    """
    value, reached = median(values), None
    for kind, limit in bar.items():
        reached = value >= limit if kind == "at_least" else value <= limit
    row = {"value": value, "low": min(values), "high": max(values)}
    return {**row, "bar": bar, "reached": reached}


def profile(step: Callable[[], object]) -> dict[str, float]:
    """Shares of a step's time (on a GPU, the GPU's) by group of operations, in the fastest of five.

    Each operation counts with its own time, without that of the operations that it calls. What the
    profiler keeps lies among the step's tensors, so the first steps beside it need new memory, and
    operations that allocate look slower than they are.
    """
    times = min((_times(step) for _ in range(5)), key=lambda times: sum(times.values()))
    return {name: value / sum(times.values()) for name, value in times.items()}


def _times(step: Callable[[], object]) -> dict[str, float]:
    """Microseconds of a step by group of operations."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler tells of each start and end
    with torch.profiler.profile() as recorded, torch.profiler.record_function("step"):
        step()
    kind = "device" if default_device().type == "cuda" else "cpu"
    times = dict.fromkeys(["optimiser", *GROUPS, "rest"], 0.0)
    for event in recorded.events():
        if event.device_type == torch.autograd.DeviceType.CPU:
            own, names = getattr(event, f"self_{kind}_time_total"), []
            while event is not None:
                names.append(event.name)
                event = event.cpu_parent
            times[group(names)] += own
    return times


def group(names: Sequence[str]) -> str:
    """The group of an operation, from its own name and those around it, outwards."""
    if any(name.startswith("Optimizer.") for name in names):
        return "optimiser"
    for name in names:
        for title, pattern in GROUPS.items():
            if re.search(pattern, name, re.IGNORECASE):
                return title
    return "rest"


def break_even(first: float, eager: float, compiled: float) -> dict:
    """Seconds of compiling, and after how many steps they have paid; None for never.

    Args:
        first: seconds of the first compiled step, which compiles.
        eager: seconds of an eager step.
        compiled: seconds of a later compiled step.
    """
    cost, gain = max(0.0, first - compiled), eager - compiled
    return {"seconds": cost, "pays after steps": math.ceil(cost / gain) if gain > 0 else None}


def table(record: dict) -> str:
    """The record as lines to read."""
    lines = []
    for name, row in record["results"].items():
        line = f"{name:<66} {row['value']:8.3f}  ({row['low']:.3f} to {row['high']:.3f})"
        for kind, limit in row["bar"].items():
            verdict = "reached" if row["reached"] else "missed"
            line += f"  {kind.replace('_', ' ')} {limit:g}: {verdict}"
        lines.append(line)
    for name, row in record["timings"].items():
        rate = f"{row['images per second']:9.1f} images/s" if "images per second" in row else ""
        lines.append(f"{name:<66} {row['median']:8.3f} s {rate}".rstrip())
    return "\n".join([*lines, *remarks(record)])


def remarks(record: dict) -> list[str]:
    """What the record's profiles and compiled steps say, a line each."""
    lines = []
    for name, shares in record["profiles"].items():
        parts = ", ".join(f"{title} {share:.1%}" for title, share in shares.items())
        lines.append(f"where the time of the {name} goes: {parts}")
    for name, row in record["compile"].items():
        if "reason" in row:
            lines.append(f"torch.compile of {name} does not work here ({row['reason']})")
        else:
            when, pays = "never pays", row["pays after steps"]
            if pays is not None:
                step = record["timings"][f"{name}, compiled step"]["median"]
                when = f"pays after {pays} steps, {duration(row['seconds'] + pays * step)}"
            lines.append(f"torch.compile of {name} takes {row['seconds']:.1f} s and {when}")
    return lines


def write(record: dict, path: Path) -> None:
    """Write a record that follows `SCHEMA`, whole or not at all."""
    import jsonschema

    jsonschema.validate(record, SCHEMA, jsonschema.Draft202012Validator)
    write_atomically(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())
