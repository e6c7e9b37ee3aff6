"""Run the chapters' problem on several seeds and keep the records that the book compares with.

    python scripts/record_study.py FOLDER [quick|full]

FOLDER gets networks and records, and can be given again after an interruption; what the
book needs is then copied to tskd_lib/runs. On two cores "quick", the digits, takes half an hour.
"full", CIFAR-100 in `data`, takes some hours: first the methods, then the ablation.
"""

import shutil
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

from tskd_lib import analysis, data, records, study
from tskd_lib.losses import PRESETS, Objective

SEEDS, CHOICE_SEEDS = {"quick": range(10), "full": range(3)}, range(5)


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


def keep(folder: Path, test: data.Images) -> None:
    """Copy the records and the teacher; of the methods also analyses, and networks of a seed."""
    ours, paths = records.COMMITTED / folder.name, [*folder.glob("teacher/*")]
    for path in sorted(folder.glob("seed-*/*.record.json")):
        method = path.name.removesuffix(".record.json")
        target = ours / path.relative_to(folder)
        if method in PRESETS:
            analysis.write(analysis.analyse(path.with_name(f"{method}.json"), test), target)
        networks = f"{method}[.-]*" if method in PRESETS and path.parent.name == "seed-0" else ""
        paths += path.parent.glob(networks or path.name)
    for path in paths:
        target = ours / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def main(folder: Path, profile: str = "quick") -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    problem = study.load(profile)
    problem = replace(problem, folder=folder / problem.name)
    problem.train_teacher(problem.folder / "teacher")
    for objectives in (PRESETS, ablation()):
        problem.run(objectives, SEEDS[profile])
    if profile == "quick":
        name = f"{problem.name}-validation"
        chosen = replace(problem, name=name, test=problem.validation, folder=folder / name)
        chosen.run(choices(), CHOICE_SEEDS)
        keep(chosen.folder, chosen.test)
    keep(problem.folder, problem.test)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3 or sys.argv[2:] not in ([], ["quick"], ["full"]):
        sys.exit("Name a folder for the networks and records of all runs, then quick or full.")
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on from what is in the folder.")
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
    except data.DataError as error:
        sys.exit(str(error))
