"""The comparison on all images of CIFAR-100, after the rules in book/protocol.md.

    python scripts/record_cifar.py FOLDER [SEEDS]

First the search, nine trials of each method judged on validation images, and beside it the teacher.
Then, with the settings chosen, the five methods on all training images, with so many seeds: 3, or
fewer, down to 0, to stop earlier and go on later. FOLDER gets networks and records, and can be
given again after an interruption; what the book needs is then copied to tskd_lib/runs. With all
seeds it takes six to seven hours on two cores.
"""

import sys
from collections import defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path

from record_study import command, keep, variant

from tskd_lib import data, records, study
from tskd_lib.losses import PRESETS, Objective
from tskd_lib.recipes import Recipe

NAME = "cifar100-all"
RATES = (0.05, 0.1, 0.2)
SETTINGS = {
    "baseline": ("weight_decay", (0.0002, 0.0005, 0.001)),
    "kd": ("temperature", (2.0, 4.0, 8.0)),
    "multi_exit": ("label", (0.3, 0.6, 1.0)),
    "byot": ("self_", (0.0, 0.1, 0.3)),
    "tskd": ("self_", (0.0, 0.1, 0.3)),
}
SEARCH_EPOCHS, SEEDS = 10, ("0", "1", "2", "3")  # how many
TEACHER, TEACHER_EPOCHS = {"name": "resnet18", "width": 0.5}, 24


def trials(recipe: Recipe) -> dict[str, tuple[Objective, Recipe]]:
    """What to try, by name: each method with three learning rates and three values of its own."""
    found = {}
    for method, (setting, values) in SETTINGS.items():
        for rate, value in product(RATES, values):
            objective, own = PRESETS[method], replace(recipe, learning_rate=rate)
            if setting == "weight_decay":
                own = replace(own, weight_decay=value)
            else:
                objective = replace(objective, **{setting: value})
            found[f"{method} rate={rate:g} {setting.strip('_')}={value:g}"] = objective, own
    return found


def jobs(problem: study.Study, arms: dict[str, tuple[Objective, Recipe]], seed: int) -> list[dict]:
    """The runs of one seed, longest first; arms with one recipe and teacher share their batches."""
    groups = defaultdict(dict)
    for name, (objective, recipe) in arms.items():
        groups[recipe, objective.teacher > 0][name] = objective
    return [
        replace(problem, student_recipe=recipe).job(objectives, seed)
        for (recipe, _), objectives in sorted(groups.items(), key=lambda g: (-len(g[1]), -g[0][1]))
    ]


def best(found: list[dict]) -> dict[str, str]:
    """The name of each method's best trial: by the deepest exit, and where equal by the vote."""

    def quality(record: dict) -> tuple[float, float]:
        results = record["results"]
        return results["exits"][-1]["accuracy"], results["votes"]["probability"]["accuracy"]

    return {r["method"].split()[0]: r["method"] for r in sorted(found, key=quality)}


def chosen(found: list[dict], recipe: Recipe) -> dict[str, tuple[Objective, Recipe]]:
    """Each method as in its best trial, with this recipe but for what was searched."""
    arms = trials(recipe)
    return {method: arms[name] for method, name in best(found).items()}


def whole(few: study.Study, folder: Path) -> study.Study:
    """The problem with all training images, and a teacher of two blocks a stage."""
    train, _ = data.load("cifar100")
    return replace(
        few,
        name=NAME,
        train=train,
        shots=int(train.labels.bincount().min()),
        teacher_network=TEACHER,
        teacher_recipe=replace(few.teacher_recipe, epochs=TEACHER_EPOCHS),
        folder=folder / NAME,
    )


def main(folder: Path, seeds: str = SEEDS[-1]) -> None:
    """Search, then compare; what is in the folder already is not run again."""
    few = study.load("full")
    name = f"{NAME}-search"
    search = variant(few, folder / name, name=name, test=few.validation)
    full = whole(few, folder)
    teacher = {**full.teacher_job(full.folder / "teacher"), "progress": False}
    tried = trials(replace(few.student_recipe, epochs=SEARCH_EPOCHS))
    study.run_jobs([teacher, *jobs(search, tried, 0)])
    arms = chosen(records.read_all(search.folder / "seed-0"), few.student_recipe)
    if students := [job for seed in range(int(seeds)) for job in jobs(full, arms, seed)]:
        study.run_jobs(students)
    keep(search.folder, search.test)
    keep(full.folder, full.test, full.test)  # no other images are left to fit an analysis on


if __name__ == "__main__":
    command(main, sys.argv[1:], SEEDS)
