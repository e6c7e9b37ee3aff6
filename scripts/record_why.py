"""Look for what makes the vote of TSKD worth having: CIFAR-100, 100 images of each class.

    python scripts/record_why.py FOLDER

First students with other terms and branches, trained for 15 epochs and judged on validation images.
Then what that suggests and a wider KD student of the same cost, trained for 30 epochs and judged on
the test images; once more with KD and with seeds that no choice has seen; and once more with ten
images of each class, where plain TSKD had its best day. FOLDER gets networks and records, and can
be given again after an interruption; what the book needs is then copied to tskd_lib/runs. It takes
four hours on two cores.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from record_shots import fewer
from record_study import ablation, command, keep, variant

from tskd_lib import study
from tskd_lib.losses import PRESETS, Objective

EXPLORED, CONFIRMED, FRESH = (
    f"cifar100-few-{name}" for name in ("validation", "confirmed", "fresh")
)
SCARCE, SHOTS = "cifar100-10-strong", 10
EPOCHS = 15
SEEDS = {EXPLORED: range(3), CONFIRMED: range(3), FRESH: range(3, 6), SCARCE: range(3)}

Arms = list[tuple[Mapping, dict[str, Objective]]]  # changes of the network, objectives by name
BRANCHES = {"strength": "residual"}
STRONG: Arms = [(BRANCHES, {"tskd branches=residual": PRESETS["tskd"]})]
NO_TEACHER: Arms = [(BRANCHES, {"byot branches=residual": PRESETS["byot"]})]
WIDE: Arms = [({"width": 0.375}, {"kd width=0.375": PRESETS["kd"]})]  # a little cheaper than it
ARMS = {
    EXPLORED: [({}, {"kd": PRESETS["kd"], **ablation()}), *STRONG, *NO_TEACHER],
    CONFIRMED: [*STRONG, *WIDE],
    FRESH: [*STRONG, *WIDE, ({}, {"kd": PRESETS["kd"]})],
    SCARCE: [*STRONG, *WIDE],
}


def jobs(problem: study.Study, arms: Arms, seeds: Iterable[int]) -> list[dict]:
    """What `study.run_jobs` is to be given to train every arm with its own network."""
    found = []
    for network, objectives in arms:
        arm = replace(problem, student={**problem.student, **network})
        found += arm.jobs(objectives, seeds)
    return found


def methods(arms: Arms) -> list[str]:
    """The names of all students."""
    return [method for _, objectives in arms for method in objectives]


def main(folder: Path) -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    few = study.load("full")
    recipe = replace(few.student_recipe, epochs=EPOCHS)
    changes = {"name": EXPLORED, "test": few.validation, "student_recipe": recipe}
    explored = variant(few, folder / EXPLORED, **changes)
    final = [variant(few, folder / name, name=name) for name in (CONFIRMED, FRESH)]
    final.append(fewer(few, SHOTS, folder, SCARCE))
    for problem in (explored, *final):
        study.run_jobs(jobs(problem, ARMS[problem.name], SEEDS[problem.name]))
    for problem in (explored, *final):
        analysed = methods(ARMS[problem.name])
        keep(problem.folder, problem.test, problem.validation, analysed, networks=())


if __name__ == "__main__":
    command(main, sys.argv[1:])
