"""Run the chapters' problem on many seeds and keep the records that the book compares with.

    python scripts/record_study.py FOLDER

FOLDER gets networks and records, and can be given again after an interruption; the records and
the teacher are then copied to tskd_lib/runs. Takes about half an hour on two cores.
"""

import shutil
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

from tskd_lib import records, study
from tskd_lib.losses import PRESETS, Objective

SEEDS, CHOICE_SEEDS = range(10), range(5)


def ablation() -> dict[str, Objective]:
    """Teacher, self and feature term on or off; without a teacher labels get all its weight."""
    arms, full = {}, PRESETS["tskd"]
    for teacher, self_, feature in product((False, True), repeat=3):
        parts = zip(("labels", "teacher", "self", "feature"), (True, teacher, self_, feature))
        weights = {"self_": full.self_ * self_, "feature": full.feature * feature}
        if not teacher:
            weights |= {"teacher": 0.0, "label": 1.0, "label_deepest": 1.0}
        arms["+".join(name for name, on in parts if on)] = replace(full, **weights)
    return arms


def choices() -> dict[str, Objective]:
    """KD and TSKD with other temperatures, TSKD with other weights of its own terms."""
    arms = {
        f"{method} T={temperature}": replace(PRESETS[method], temperature=float(temperature))
        for method in ("kd", "tskd")
        for temperature in (1, 2, 4, 8, 16)
    }
    for name, key, weights in (
        ("self", "self_", (0.0, 0.1, 0.3, 1.0, 3.0)),
        ("feature", "feature", (0.0, 0.001, 0.01, 0.1, 1.0)),
    ):
        arms |= {f"tskd {name}={w:g}": replace(PRESETS["tskd"], **{key: w}) for w in weights}
    return arms


def main(folder: Path) -> None:
    """Train what is not in the folder yet, and copy the records and the teacher."""
    problem = replace(study.load("quick"), folder=folder / "digits-few")
    teacher = problem.train_teacher(problem.folder / "teacher")
    chosen = replace(
        problem,
        name="digits-few-validation",
        test=problem.validation,
        folder=folder / "digits-few-validation",
    )
    problem.run(PRESETS | ablation(), SEEDS)
    chosen.run(choices(), CHOICE_SEEDS)
    for path in [*teacher.parent.glob("teacher*"), *folder.glob("*/seed-*/*.record.json")]:
        target = records.COMMITTED / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name one folder for the networks and records of all runs.")
    try:
        main(Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on from what is in the folder.")
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
