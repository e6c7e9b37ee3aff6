"""Look for what makes the vote of TSKD worth having: CIFAR-100, judged on validation images.

    python scripts/record_why.py FOLDER

Trains students with one thing changed at a time, on 100 images of each class for 15 epochs:
terms, branches, width, epochs, exits, temperature. FOLDER gets networks and records, and
can be given again after an interruption; what the book needs is then copied to tskd_lib/runs. It
takes three to four hours on two cores.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from record_study import ablation, command, keep, variant

from tskd_lib import study
from tskd_lib.losses import PRESETS, Objective

NAME, EPOCHS, LONG, SEEDS = "cifar100-few-validation", 15, 60, range(3)


def arms() -> Iterator[tuple[Mapping, int, dict[str, Objective]]]:
    """Changes of the student's network, epochs, and the objectives to train with, by name."""
    kd, tskd, plain = PRESETS["kd"], PRESETS["tskd"], PRESETS["multi_exit"]
    yield {}, EPOCHS, {"kd": kd, **ablation()}
    yield {"strength": "residual"}, EPOCHS, {"tskd branches=residual": tskd}
    yield {"width": 17 / 64}, EPOCHS, {"kd width=17/64": kd}  # the FLOPs of TSKD's vote
    yield {"width": 25 / 64}, EPOCHS, {"kd width=25/64": kd}  # its vote with residual branches
    yield {}, LONG, {f"labels epochs={LONG}": plain}
    yield {}, LONG, {f"tskd epochs={LONG}": tskd}
    yield {}, EPOCHS, {"tskd exits=3,4": replace(tskd, exits=(3, 4))}
    yield {}, EPOCHS, {"tskd exits=2,3,4": replace(tskd, exits=(2, 3, 4))}
    yield {}, EPOCHS, {f"tskd T={t}": replace(tskd, temperature=float(t)) for t in (1, 2, 8)}


def main(folder: Path) -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    few = study.load("full")
    problem = variant(few, folder / NAME, name=NAME, test=few.validation)
    analysed = [method for _, _, objectives in arms() for method in objectives]
    for network, epochs, objectives in arms():
        student = {**problem.student, **network}
        recipe = replace(problem.student_recipe, epochs=epochs)
        replace(problem, student=student, student_recipe=recipe).run(objectives, SEEDS)
    keep(problem.folder, problem.test, problem.validation, analysed, networks=())


if __name__ == "__main__":
    command(main, sys.argv[1:])
