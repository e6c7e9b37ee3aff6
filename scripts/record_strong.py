"""Strong branches and a wider KD student, with all images of CIFAR-100.

    python scripts/record_strong.py FOLDER

What `record_why.py` chose with 100 images of each class: its branches for TSKD, and for KD a width
that costs as much. Multi-exit training and BYOT get these branches too. Then strong TSKD and KD
once more, with two more seeds. All else, the teacher included, is as in `record_cifar.py`, whose
records it takes from tskd_lib/runs. FOLDER gets networks and records, and can be given again after
an interruption; what the book needs is then copied to tskd_lib/runs. It takes ten hours on two
cores.
"""

import sys
from dataclasses import replace
from pathlib import Path

import record_cifar
from record_study import command, keep, variant
from record_why import BRANCHES, NO_TEACHER, STRONG, WIDE, Arms, jobs, methods

from tskd_lib import records, study
from tskd_lib.losses import PRESETS

NAME, MORE = (f"{record_cifar.NAME}-{name}" for name in ("strong", "more"))
LABELS_ONLY: Arms = [(BRANCHES, {"multi_exit branches=residual": PRESETS["multi_exit"]})]
ARMS: dict[str, Arms] = {
    NAME: [*STRONG, *WIDE, *LABELS_ONLY, *NO_TEACHER],
    MORE: [*STRONG, ({}, {"kd": PRESETS["kd"]})],
}
SEEDS = {NAME: range(3), MORE: range(3, 5)}


def main(folder: Path) -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    few = study.load("full")
    full = record_cifar.whole(few, folder)
    found = records.read_all(records.COMMITTED / f"{record_cifar.NAME}-search")
    settings = record_cifar.chosen(found, few.student_recipe)
    problems = [variant(full, folder / name, name=name) for name in ARMS]
    students = []
    for problem in problems:
        for network, objectives in ARMS[problem.name]:
            for name in objectives:
                objective, recipe = settings[name.split()[0]]
                arm = network, {name: objective}
                own = replace(problem, student_recipe=recipe)
                students += jobs(own, [arm], SEEDS[problem.name])
    study.run_jobs(students)
    for problem in problems:
        analysed = methods(ARMS[problem.name])
        keep(problem.folder, problem.test, problem.test, analysed, networks=())


if __name__ == "__main__":
    command(main, sys.argv[1:])
