"""Narrower KD students, the rivals of the exits before the deepest.

    python scripts/record_narrow.py FOLDER [quick|full]

For each such exit of the student: KD with the widest network that costs no more. "quick" is of the
digits, in minutes; "full" of CIFAR-100 with 100 images of each class, in an hour on two cores. All
else, seeds and teacher included, is as in `record_study.py`. FOLDER gets networks and records, and
can be given again after an interruption; the records are then copied to tskd_lib/runs.
"""

import sys
from pathlib import Path

from record_study import SEEDS, command, keep, variant
from record_why import Arms, jobs

from tskd_lib import study
from tskd_lib.exits import build_student
from tskd_lib.losses import PRESETS

CHANNEL = 1 / 64  # of a resnet's width, what one channel of the first stage takes


def arms(problem: study.Study) -> Arms:
    """The KD student that is to stand beside each exit but the deepest."""
    shape = {"classes": len(problem.train.classes), "input_shape": problem.train.shape}
    found: Arms = []
    for exit, cost in enumerate(build_student(**shape, **problem.student).flops()[:-1], start=1):
        network, objective = dict(problem.student), PRESETS["kd"]
        while build_student(exits=objective.exits, **shape, **network).flops()[-1] > cost:
            network["width"] -= CHANNEL
        found.append(({"width": network["width"]}, {f"kd for exit {exit}": objective}))
    return found


def main(folder: Path, profile: str = "quick") -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    problem = study.load(profile)
    name = f"{problem.name}-narrow"
    problem = variant(problem, folder / name, name=name)
    study.run_jobs(jobs(problem, arms(problem), SEEDS[profile]))
    keep(problem.folder, problem.test, analysed=(), networks=())


if __name__ == "__main__":
    command(main, sys.argv[1:], ("quick", "full"))
