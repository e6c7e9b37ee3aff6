"""What the settings of TSKD do: CIFAR-100, 100 images of each class, judged on validation images.

    python scripts/record_settings.py FOLDER

One change at a time of temperature, weights, number of exits, teacher and length of training; the
students without a change are those of `record_why.py`. Three more changes, of the self term, of the
feature term and of what the exits teach the stages, are in single precision and have students
without a change of their own. FOLDER gets networks and records, and can be given again after an
interruption; what the book needs is then copied to tskd_lib/runs. It takes four hours on two cores.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from record_study import command, keep, variant
from record_why import EPOCHS, Arms, jobs, methods
from torch import Tensor
from torch.nn.functional import normalize

from tskd_lib import study
from tskd_lib.losses import PRESETS, Objective, feature_loss

NAME, SEEDS = "cifar100-few-settings", range(3)
SINGLE = "cifar100-few-single"
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


class Late(Objective):
    """The self term sets in as the deepest exit learns.

    Its weight is multiplied by the mean probability that the deepest exit gives to the labels of
    the batch: 1 % at first with 100 classes, and the more the later.
    """

    def __call__(self, logits, features, labels, teacher_logits=None):
        """The terms of the objective, that of the self term smaller."""
        terms = super().__call__(logits, features, labels, teacher_logits)
        chances = logits[-1].detach().float().softmax(-1)
        known = chances.gather(1, labels[:, None]).mean()
        return in_place_of(terms, "self", known * terms["self"])


class Unit(Objective):
    """The feature term compares directions: feature vectors are brought to length one first."""

    def __call__(self, logits, features, labels, teacher_logits=None):
        """The terms of the objective, the feature term that of unit vectors."""
        terms = super().__call__(logits, features, labels, teacher_logits)
        directions = normalize(features.float(), dim=-1)
        distance = feature_loss(directions[:-1], directions[-1])
        return in_place_of(terms, "feature", self.feature * distance)


def in_place_of(terms: dict[str, Tensor], term: str, loss: Tensor) -> dict[str, Tensor]:
    """The terms with this loss for one of them, and the total that belongs to it."""
    return terms | {term: loss, "total": terms["total"] - terms[term] + loss}


def single_arms() -> Arms:
    """TSKD, the self term later, features of length one, and exits that do not teach the stages.

    The weights of the first two changes make their terms end about as large as without.
    """
    settings = PRESETS["tskd"].settings()
    changed = {
        "tskd": PRESETS["tskd"],
        "tskd self late": Late(**{**settings, "self_": 1.0}),
        "tskd feature unit": Unit(**{**settings, "feature": 2.0}),
    }
    return [({}, changed), ({"detach": True}, {"tskd exits detached": PRESETS["tskd"]})]


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
    recipe = replace(few.student_recipe, precision="fp32")
    single = variant(settings, folder / SINGLE, name=SINGLE, student_recipe=recipe)
    study.run_jobs(jobs(single, single_arms(), SEEDS))
    recipe = replace(few.student_recipe, epochs=LONG_EPOCHS)
    longer = variant(settings, folder / LONG, name=LONG, student_recipe=recipe)
    longer.run(RIVALS, SEEDS)
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
    for problem, analysed in ((settings, arms()), (single, methods(single_arms()))):
        keep(problem.folder, problem.test, problem.validation, analysed, networks=())
    for problem in problems:
        keep(problem.folder, problem.test, problem.validation, networks=())


if __name__ == "__main__":
    command(main, sys.argv[1:])
