"""Look for what makes the vote of TSKD worth having: CIFAR-100, judged on validation images.

    python scripts/record_why.py FOLDER

Trains students with one thing changed at a time, on 100 images of each class for 15 epochs:
terms, branches, width, exits, epochs, temperature, weights. FOLDER gets networks and records, and
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
    kd, tskd, byot = PRESETS["kd"], PRESETS["tskd"], PRESETS["byot"]
    residual = {"tskd branches=residual": tskd, "byot branches=residual": byot}
    yield {}, EPOCHS, {"kd": kd, **ablation()}
    yield {"strength": "residual"}, EPOCHS, residual
    yield {"width": 17 / 64}, EPOCHS, {"kd width=17/64": kd}  # the FLOPs of TSKD's vote
    yield {"width": 25 / 64}, EPOCHS, {"kd width=25/64": kd}  # its vote with residual branches
    yield {}, EPOCHS, {"tskd exits=3,4": replace(tskd, exits=(3, 4))}
    yield {}, EPOCHS, {"tskd exits=2,3,4": replace(tskd, exits=(2, 3, 4))}
    yield {}, LONG, {f"labels epochs={LONG}": PRESETS["multi_exit"], f"tskd epochs={LONG}": tskd}
    yield {}, EPOCHS, {f"tskd T={t}": replace(tskd, temperature=float(t)) for t in (1, 2, 8)}
    yield {}, EPOCHS, {f"tskd self={w:g}": replace(tskd, self_=w) for w in (0.1, 1.0)}
    yield {}, EPOCHS, {f"tskd feature={w:g}": replace(tskd, feature=w) for w in (0.001, 0.1)}
    yield {}, EPOCHS, {f"kd T={t}": replace(kd, temperature=float(t)) for t in (1, 2, 8)}


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
