"""Run the chapters' problem on many seeds and keep the records that the book compares with.

    python scripts/record_study.py FOLDER [quick|full] [--data-root DIR]

FOLDER gets networks and records, and can be given again after an interruption. The teacher, the
presets, the ablation and the choices on validation images follow each other. The records of each
are copied to tskd_lib/runs when it is whole; so is the teacher, unless its file is large. On two
cores "quick" takes about half an hour, "full" (CIFAR-100) a day or more: it says how long.
"""

import argparse
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path

from tskd_lib import data, records, study
from tskd_lib.losses import PRESETS, Objective

SEEDS = {"quick": range(10), "full": range(3)}
CHOICE_SEEDS = {"quick": range(5), "full": range(1)}
LARGEST = 4_000_000  # bytes of a file that is copied


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


def main(folder: Path, profile: str, root: Path) -> None:
    """Train what is not in the folder yet, and copy each stage's records when it is whole."""
    problem = study.load(profile, root)
    name = problem.name
    problem = replace(problem, folder=folder / name)
    chosen = replace(
        problem,
        name=f"{name}-validation",
        test=problem.validation,
        folder=folder / f"{name}-validation",
    )
    seeds, choice_seeds = SEEDS[profile], CHOICE_SEEDS[profile]
    teacher = problem.train_teacher(problem.folder / "teacher")
    shutil.copytree(teacher.parent, chosen.folder / "teacher", dirs_exist_ok=True)
    small = all(path.stat().st_size <= LARGEST for path in teacher.parent.iterdir())
    keep(folder, teacher.parent.glob("teacher*" if small else "teacher.record.json"))
    for part, arms, of in (
        (problem, PRESETS, seeds),
        (problem, ablation(), seeds),
        (chosen, choices(), choice_seeds),
    ):
        part.run(arms, of)
        keep(folder, part.folder.glob("seed-*/*.record.json"))


def keep(folder: Path, paths: Iterable[Path]) -> None:
    """Copy files of the folder to the library."""
    for path in paths:
        target = records.COMMITTED / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the networks and records of all runs")
    parser.add_argument("profile", nargs="?", choices=list(SEEDS), default="quick")
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR")
    options = parser.parse_args()
    try:
        main(options.folder, options.profile, options.data_root)
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on from what is in the folder.")
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
    except data.DataError as error:
        sys.exit(str(error))
