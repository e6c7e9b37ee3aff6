"""What else could answer at the cost of an exit: KD students of two kinds, and two in a row.

    python scripts/record_narrow.py FOLDER [quick|full]

For each exit of the student a *narrow* one, the widest network that costs no more. Then a cascade:
the narrowest student, and the one of the deepest exit where it is not sure. "quick" is of the
digits, in minutes; there also *cut* students, the student's own stages and branch up to an exit,
trained for it alone. "full" is of CIFAR-100 with 100 images of each class, in an hour and a quarter
on two cores. All else, seeds and teacher included, is as in `record_study.py`. FOLDER gets networks
and records, and can be given again after an interruption; records and cascades are then copied to
tskd_lib/runs.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from record_study import SEEDS, command, keep, note, origin, untrained, variant
from record_why import Arms, jobs, methods

from tskd_lib import analysis, anytime, records, study
from tskd_lib.losses import PRESETS

KD, FILE = PRESETS["kd"], "cascades.json"
CHANNEL = 1 / 64  # of a resnet's width, what one channel of the first stage takes


def narrow(problem: study.Study) -> Arms:
    """KD with the widest network that costs no more, for each exit."""
    found: Arms = []
    for exit, cost in enumerate(untrained(problem).flops(), start=1):
        width = problem.student["width"]
        while untrained(problem, width=width, exits=KD.exits).flops()[-1] > cost:
            width -= CHANNEL
        found.append(({"width": width}, {f"kd for exit {exit}": KD}))
    return found


def cut(problem: study.Study) -> Arms:
    """KD with a network that ends at the exit, for each exit but the deepest."""
    exits = untrained(problem).exits[:-1]
    return [({}, {f"kd up to exit {exit}": replace(KD, exits=(exit,)) for exit in exits})]


def cascade(problem: study.Study, seed: int) -> dict:
    """The accuracy and mean cost of a cascade at the thresholds of `tskd_lib.analysis`."""
    first, *_, last = methods(narrow(problem))
    small, large = (problem.network(method, seed).flops()[0] for method in (first, last))
    logits = torch.cat([problem.logits(method, seed) for method in (first, last)])
    costs, thresholds = [small, small + large], analysis.THRESHOLDS
    curve = anytime.curve(logits, problem.test.labels, costs, thresholds=thresholds)
    return {"methods": [first, last], "seed": seed, "early exit": curve.to_dict("list")}


KINDS = {"quick": {"narrow": narrow, "cut": cut}, "full": {"narrow": narrow}}


def main(folder: Path, profile: str = "quick") -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    problem, seeds = study.load(profile), SEEDS[profile]
    parts, made = {}, origin(problem)
    for kind, arms in KINDS[profile].items():
        name = f"{problem.name}-{kind}"
        parts[kind] = variant(problem, folder / name, name=name)
        study.run_jobs(jobs(parts[kind], arms(problem), seeds))
    found = [cascade(parts["narrow"], seed) for seed in seeds]
    for part in parts.values():
        keep(part.folder, part.test, analysed=(), networks=())
    place = records.COMMITTED / parts["narrow"].name / FILE
    note({"provenance": made, "cascades": found}, place)


if __name__ == "__main__":
    command(main, sys.argv[1:], ("quick", "full"))
