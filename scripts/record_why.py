"""Look for what makes the vote of TSKD worth having: CIFAR-100, 100 images of each class.

    python scripts/record_why.py FOLDER

First students with one thing changed at a time (terms, branches, width), trained for 15 epochs and
judged on validation images. Then what that suggests, trained as long as the methods of chapter 10
and judged on the test images. FOLDER gets networks and records, and can be given again after an
interruption; what the book needs is then copied to tskd_lib/runs. It takes two hours on two cores.
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
RESIDUAL, WIDE = "tskd branches=residual", "kd width=24/64"


def arms() -> list[tuple[Mapping, dict[str, Objective]]]:
    """Changes of the student's network, and the objectives to train it with, by name."""
    kd, tskd = PRESETS["kd"], PRESETS["tskd"]
    return [
        ({}, {"kd": kd, **ablation()}),
        ({"strength": "residual"}, {RESIDUAL: tskd}),
        ({"width": 24 / 64}, {WIDE: kd}),  # nearly the FLOPs of a vote with residual branches
    ]


def run(problem: study.Study, arms: list[tuple[Mapping, dict[str, Objective]]]) -> None:
    """Train every arm with its own network."""
    for network, objectives in arms:
        replace(problem, student={**problem.student, **network}).run(objectives, SEEDS)


def main(folder: Path) -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    few = study.load("full")
    recipe = replace(few.student_recipe, epochs=EPOCHS)
    changes = {"name": EXPLORED, "test": few.validation, "student_recipe": recipe}
    explored = variant(few, folder / EXPLORED, **changes)
    confirmed = variant(few, folder / CONFIRMED, name=CONFIRMED)
    run(explored, arms())
    run(confirmed, [arm for arm in arms() if {RESIDUAL, WIDE} & set(arm[1])])
    for problem in (explored, confirmed):
        methods = [method for _, objectives in arms() for method in objectives]
        keep(problem.folder, problem.test, problem.validation, methods, networks=())


if __name__ == "__main__":
    command(main, sys.argv[1:])
