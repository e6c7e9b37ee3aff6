"""What else could answer at the cost of an exit before the deepest: KD students of two kinds.

    python scripts/record_narrow.py FOLDER [quick|full]

For each such exit of the student a *narrow* one, the widest network that costs no more, and a *cut*
one, the student's own stages and branch up to that exit, trained for it alone. "quick" is of the
digits, in minutes; "full" of CIFAR-100 with 100 images of each class, in two hours on two cores.
All else, seeds and teacher included, is as in `record_study.py`. FOLDER gets networks and records,
and can be given again after an interruption; the records are then copied to tskd_lib/runs.
"""

import sys
from dataclasses import replace
from pathlib import Path

from record_study import SEEDS, command, keep, variant
from record_why import Arms, jobs

from tskd_lib import study
from tskd_lib.exits import MultiExitNet, build_student
from tskd_lib.losses import PRESETS

KD, CHANNEL = (
    PRESETS["kd"],
    1 / 64,
)  # of a resnet's width, what one channel of the first stage takes


def student(problem: study.Study, **changes) -> MultiExitNet:
    """The problem's student, untrained and with changes."""
    shape = {"classes": len(problem.train.classes), "input_shape": problem.train.shape}
    return build_student(**shape, **{**problem.student, **changes})


def narrow(problem: study.Study) -> Arms:
    """KD with the widest network that costs no more, for each exit but the deepest."""
    found: Arms = []
    for exit, cost in enumerate(student(problem).flops()[:-1], start=1):
        width = problem.student["width"]
        while student(problem, width=width, exits=KD.exits).flops()[-1] > cost:
            width -= CHANNEL
        found.append(({"width": width}, {f"kd for exit {exit}": KD}))
    return found


def cut(problem: study.Study) -> Arms:
    """KD with a network that ends at the exit, for each exit but the deepest."""
    exits = student(problem).exits[:-1]
    return [({}, {f"kd up to exit {exit}": replace(KD, exits=(exit,)) for exit in exits})]


KINDS = {"narrow": narrow, "cut": cut}


def main(folder: Path, profile: str = "quick") -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    problem = study.load(profile)
    parts = []
    for kind, arms in KINDS.items():
        name = f"{problem.name}-{kind}"
        part = variant(problem, folder / name, name=name)
        study.run_jobs(jobs(part, arms(part), SEEDS[profile]))
        parts.append(part)
    for part in parts:
        keep(part.folder, part.test, analysed=(), networks=())


if __name__ == "__main__":
    command(main, sys.argv[1:], ("quick", "full"))
