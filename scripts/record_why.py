"""Look for what makes the vote of TSKD worth having: CIFAR-100, judged on validation images.

    python scripts/record_why.py FOLDER

Trains students with one thing changed at a time, on 100 images of each class for 15 epochs:
terms, branches, exits, width, temperature, weights. FOLDER gets networks and records, and can be
given again after an interruption; what the book needs is then copied to tskd_lib/runs. It takes
two to three hours on two cores.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from record_study import ablation, command, keep, variant

from tskd_lib import study
from tskd_lib.losses import PRESETS, Objective

NAME, EPOCHS, SEEDS = "cifar100-few-validation", 15, range(3)


def arms() -> Iterator[tuple[Mapping, dict[str, Objective]]]:
    """Changes of the student's network, and the objectives to train it with, by name."""
    kd, tskd, byot = PRESETS["kd"], PRESETS["tskd"], PRESETS["byot"]
    yield {}, {"kd": kd, **ablation()}
    yield {"strength": "residual"}, {"tskd branches=residual": tskd, "byot branches=residual": byot}
    yield {"width": 0.265625}, {"kd width=17/64": kd}  # the FLOPs of TSKD's vote
    yield {"width": 0.390625}, {"kd width=25/64": kd}  # those of its vote with residual branches
    yield {}, {f"tskd T={t}": replace(tskd, temperature=float(t)) for t in (1, 2, 8)}
    yield {}, {"tskd exits=3,4": replace(tskd, exits=(3, 4))}
    yield {}, {"tskd exits=2,3,4": replace(tskd, exits=(2, 3, 4))}
    yield {}, {f"tskd self={w:g}": replace(tskd, self_=w) for w in (0.1, 1.0)}
    yield {}, {f"tskd feature={w:g}": replace(tskd, feature=w) for w in (0.001, 0.1)}
    yield {}, {f"kd T={t}": replace(kd, temperature=float(t)) for t in (1, 2, 8)}


def main(folder: Path) -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    few = study.load("full")
    recipe = replace(few.student_recipe, epochs=EPOCHS)
    problem = variant(few, folder / NAME, name=NAME, test=few.validation, student_recipe=recipe)
    for network, objectives in arms():
        replace(problem, student={**problem.student, **network}).run(objectives, SEEDS)
    keep(problem.folder, problem.test)


if __name__ == "__main__":
    command(main, sys.argv[1:])
