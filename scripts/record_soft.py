"""Which part of a soft target helps: digits, and CIFAR-100 with 100 images of each class.

    python scripts/record_soft.py FOLDER

KD with targets that rank no wrong classes, and with targets alike for all images of a batch
(chapter 4 has the idea), on the digits beside KD and the student alone. Those of CIFAR-100 are of
`record_study.py`; they had 16-bit precision, and so have the students here. FOLDER gets networks
and records, and can be given again after an interruption; the records are then copied to
tskd_lib/runs. It takes an hour on two cores.
"""

import sys
from dataclasses import replace
from pathlib import Path

from record_study import command, keep, variant
from torch import Tensor

from tskd_lib import study
from tskd_lib.losses import PRESETS, Objective

NAMES = {"quick": "digits-few-soft", "full": "cifar100-few-soft"}
SEEDS = {"quick": range(10), "full": range(3)}


class NoRanking(Objective):
    """The teacher gives its probability of the label; the wrong classes share the rest evenly."""

    def __call__(self, logits, features, labels, teacher_logits=None):
        """The terms of the objective with these soft targets."""
        p = (teacher_logits.float() / self.temperature).softmax(-1)
        label = self.trust(p.gather(1, labels[:, None]))
        rest = (1 - label) / (p.shape[1] - 1)
        target = rest.expand_as(p).scatter(1, labels[:, None], label)
        return super().__call__(logits, features, labels, self.temperature * target.log())

    def trust(self, label: Tensor) -> Tensor:
        """What the target gives to the label, `[B, 1]`."""
        return label


class NoTeacher(NoRanking):
    """The same probability of the label for all images of a batch: their mean."""

    def trust(self, label: Tensor) -> Tensor:
        """What the target gives to the label, `[B, 1]`."""
        return label.mean().expand_as(label)


def controls() -> dict[str, Objective]:
    """KD with less in its targets."""
    kd = PRESETS["kd"].settings()
    return {"no ranking": NoRanking(**kd), "no teacher": NoTeacher(**kd)}


def main(folder: Path) -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    digits, few = study.load("quick"), study.load("full")
    few = replace(few, student_recipe=replace(few.student_recipe, precision="bf16"))
    usual = {method: PRESETS[method] for method in ("baseline", "kd")}
    methods = {"quick": {**usual, **controls()}, "full": controls()}
    problems = {
        profile: variant(problem, folder / NAMES[profile], name=NAMES[profile])
        for profile, problem in {"quick": digits, "full": few}.items()
    }
    for profile, problem in problems.items():
        problem.run(methods[profile], SEEDS[profile])
    for problem in problems.values():
        keep(problem.folder, problem.test, analysed=(), networks=())


if __name__ == "__main__":
    command(main, sys.argv[1:])
