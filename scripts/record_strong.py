"""Strong branches and a wider KD student, with all images of CIFAR-100.

    python scripts/record_strong.py FOLDER [SEEDS]

What `record_why.py` chose with 100 images of each class: its branches for TSKD, and for KD a width
that costs as much. All else, the teacher included, is as in `record_cifar.py`, whose records it
takes from tskd_lib/runs. SEEDS is the number of seeds: 3, or fewer to go on later. FOLDER gets
networks and records, and can be given again after an interruption; what the book needs is then
copied to tskd_lib/runs.
"""

import sys
from dataclasses import replace
from pathlib import Path

import record_cifar
from record_study import command, keep, variant
from record_why import STRONG, WIDE, jobs, methods

from tskd_lib import records, study

NAME, ARMS = f"{record_cifar.NAME}-strong", [*STRONG, *WIDE]


def main(folder: Path, seeds: str = record_cifar.SEEDS[-1]) -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    few = study.load("full")
    full = record_cifar.whole(few, folder)
    found = records.read_all(records.COMMITTED / f"{record_cifar.NAME}-search")
    settings, students = record_cifar.chosen(found, few.student_recipe), []
    problem = variant(full, folder / NAME, name=NAME)
    for network, objectives in ARMS:
        for name in objectives:
            objective, recipe = settings[name.split()[0]]
            arm = network, {name: objective}
            students += jobs(replace(problem, student_recipe=recipe), [arm], range(int(seeds)))
    study.run_jobs(students)
    keep(problem.folder, problem.test, problem.test, methods(ARMS), networks=())


if __name__ == "__main__":
    command(main, sys.argv[1:], record_cifar.SEEDS[1:])
