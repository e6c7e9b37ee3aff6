"""What the settings of TSKD do: CIFAR-100, 100 images of each class, judged on validation images.

    python scripts/record_settings.py FOLDER

One change at a time of temperature, weights, number of exits, teacher and length of training; the
students without a change are those of `record_why.py`. FOLDER gets networks and records, and can be
given again after an interruption; what the book needs is then copied to tskd_lib/runs. It takes two
hours on two cores.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from record_study import command, keep, variant
from record_why import EPOCHS

from tskd_lib import study
from tskd_lib.losses import PRESETS, Objective

NAME, SEEDS = "cifar100-few-settings", range(3)
LONG, LONG_EPOCHS = "cifar100-few-long", 60
RIVALS = {method: PRESETS[method] for method in ("kd", "tskd")}
TEACHERS, TEACHER_EPOCHS = {"weak": 0.125, "medium": 0.25}, 10  # widths


@dataclass(frozen=True)
class Shallow(Objective):
    """The objective with one more weight: of all terms of the exits before the deepest."""

    shallow: float = 1.0

    def __call__(self, logits, features, labels, teacher_logits=None):
        """The terms of the deepest exit, and the weighted ones of all others."""
        whole = super().__call__(logits, features, labels, teacher_logits)
        deepest = super().__call__(logits[-1:], features[-1:], labels, teacher_logits)
        return {
            term: self.shallow * loss + (1 - self.shallow) * deepest.get(term, 0)
            for term, loss in whole.items()
        }


def arms() -> dict[str, Objective]:
    """TSKD with one change each."""
    tskd = PRESETS["tskd"]
    found = {f"tskd T={t:g}": replace(tskd, temperature=t) for t in (1.0, 2.0, 8.0)}
    found |= {f"tskd exits={len(e)}": replace(tskd, exits=e) for e in ((2, 4), (2, 3, 4))}
    found["tskd self=1"] = replace(tskd, self_=1.0)
    found["tskd feature=0.1"] = replace(tskd, feature=0.1)
    found["tskd shallow=0.3"] = Shallow(**tskd.settings(), shallow=0.3)
    return found


def main(folder: Path) -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    few = study.load("full")
    few = replace(few, student_recipe=replace(few.student_recipe, epochs=EPOCHS))
    settings = variant(few, folder / NAME, name=NAME, test=few.validation)
    settings.run(arms(), SEEDS)
    recipe = replace(few.student_recipe, epochs=LONG_EPOCHS)
    longer = variant(settings, folder / LONG, name=LONG, student_recipe=recipe)
    longer.run({"tskd": PRESETS["tskd"]}, SEEDS)
    problems = [longer]
    for strength, width in TEACHERS.items():
        name = f"cifar100-few-{strength}"
        problem = replace(
            few,
            name=name,
            folder=folder / name,
            teacher_network={**few.teacher_network, "width": width},
            teacher_recipe=replace(few.teacher_recipe, epochs=TEACHER_EPOCHS),
        )
        problem.train_teacher(problem.folder / "teacher")
        problem = replace(problem, test=few.validation)
        problem.run(RIVALS, SEEDS)
        problems.append(problem)
    keep(settings.folder, settings.test, settings.validation, arms(), networks=())
    for problem in problems:
        keep(problem.folder, problem.test, problem.validation, networks=())


if __name__ == "__main__":
    command(main, sys.argv[1:])
