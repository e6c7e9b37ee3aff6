"""Look for what makes the vote of TSKD worth having: CIFAR-100, 100 images of each class.

    python scripts/record_why.py FOLDER

First students with other terms and branches, trained for 15 epochs and judged on validation images.
Then what that suggests and a wider KD student of the same cost, trained as long as the methods of
chapter 10 and judged on the test images. FOLDER gets networks and records, and can be given again
after an interruption; what the book needs is then copied to tskd_lib/runs. It takes two and
a half hours on two cores.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from record_study import ablation, command, keep, variant

from tskd_lib import study
from tskd_lib.losses import PRESETS, Objective

EXPLORED, CONFIRMED = "cifar100-few-validation", "cifar100-few-confirmed"
EPOCHS, SEEDS = 15, range(3)

Arms = list[tuple[Mapping, dict[str, Objective]]]  # changes of the network, objectives by name
BRANCHES = {"strength": "residual"}
STRONG: Arms = [(BRANCHES, {"tskd branches=residual": PRESETS["tskd"]})]
NO_TEACHER: Arms = [(BRANCHES, {"byot branches=residual": PRESETS["byot"]})]
WIDE: Arms = [({"width": 0.375}, {"kd width=0.375": PRESETS["kd"]})]  # a little cheaper than it
ARMS = {
    EXPLORED: [({}, {"kd": PRESETS["kd"], **ablation()}), *STRONG, *NO_TEACHER],
    CONFIRMED: [*STRONG, *WIDE],
}


def run(problem: study.Study) -> None:
    """Train every arm of this study with its own network."""
    for network, objectives in ARMS[problem.name]:
        replace(problem, student={**problem.student, **network}).run(objectives, SEEDS)


def main(folder: Path) -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    few = study.load("full")
    recipe = replace(few.student_recipe, epochs=EPOCHS)
    changes = {"name": EXPLORED, "test": few.validation, "student_recipe": recipe}
    explored = variant(few, folder / EXPLORED, **changes)
    confirmed = variant(few, folder / CONFIRMED, name=CONFIRMED)
    for problem in (explored, confirmed):
        run(problem)
    for problem in (explored, confirmed):
        methods = [method for _, objectives in ARMS[problem.name] for method in objectives]
        keep(problem.folder, problem.test, problem.validation, methods, networks=())


if __name__ == "__main__":
    command(main, sys.argv[1:])
