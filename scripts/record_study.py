"""Run the chapters' problem on several seeds and keep the records that the book compares with.

    python scripts/record_study.py FOLDER [quick|full]

FOLDER gets networks and records, and can be given again after an interruption; what the
book needs is then copied to tskd_lib/runs. On two cores "quick", the digits, takes half an hour.
"full", CIFAR-100 in `data`, takes two to three hours; `record_why.py` has the ablation there.
"""

import json
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

from tskd_lib import analysis, checkpoints, data, failures, recipes, records, study
from tskd_lib.exits import MultiExitNet, build_student
from tskd_lib.losses import PRESETS, Objective

GOES_ON = "; the same command goes on from what is in the folder."
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


def untrained(problem: study.Study, **changes) -> MultiExitNet:
    """The problem's student before training, with other arguments of `exits.build_student`."""
    shape = {"classes": len(problem.train.classes), "input_shape": problem.train.shape}
    return build_student(**shape, **{**problem.student, **changes})


def variant(problem: study.Study, folder: Path, **changes) -> study.Study:
    """The problem with changes, in a folder of its own, with the same teacher."""
    shutil.copytree(problem.teacher_path().parent, folder / "teacher", dirs_exist_ok=True)
    return replace(problem, folder=folder, **changes)


def keep(
    folder: Path,
    test: data.Images,
    validation: data.Images | None = None,
    analysed: Collection[str] = PRESETS,
    networks: Collection[str] = PRESETS,
    samples: Sequence[int] = range(12),
) -> None:
    """Copy the study's records, its own teacher and some networks; analyse.

    A record whose network is not in the folder was analysed on another machine.

    Args:
        folder: of the study.
        test: what its records are of.
        validation: as in `analysis.analyse`.
        analysed: the methods that get an analysis.
        networks: the methods of which the network of the first seed is kept.
        samples: as in `analysis.analyse`.
    """
    ours, paths, checkpoints_of = records.COMMITTED / folder.name, [], {}
    for path in folder.glob(f"teacher/*{records.SUFFIX}"):
        if records.read(path)["experiment"] == folder.name:
            shutil.rmtree(ours / "teacher", ignore_errors=True)
            paths += path.parent.iterdir()
    for path in sorted(folder.rglob(f"seed-*/*{records.SUFFIX}")):
        method = path.name.removesuffix(records.SUFFIX)
        target = ours / path.relative_to(folder)
        checkpoint = path.with_name(f"{method}.json")
        if method in analysed and checkpoint.exists():
            checkpoints_of[target] = checkpoint
        whole = method in networks and path.parent.name == "seed-0"
        if whole and checkpoint.exists():
            for old in target.parent.glob(f"{method}-*.safetensors"):
                old.unlink()  # of an earlier run: weights are named by their digest
        paths += path.parent.glob(f"{method}[.-]*" if whole else path.name)
    for path in paths:
        target = ours / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for target, checkpoint in checkpoints_of.items():
        analysis.write(analysis.analyse(checkpoint, test, samples, validation=validation), target)


def origin(problem: study.Study) -> dict:
    """Where what is measured on several of the study's runs comes from."""
    device = recipes.default_device()
    precision = recipes.choose_precision(problem.student_recipe.precision, device)
    return records.provenance(device, 1, precision)


def note(found: dict, path: Path) -> None:
    """Keep what was measured on several runs, whole or not at all."""
    checkpoints.write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())


def main(folder: Path, profile: str = "quick") -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    problem = study.load(profile)
    problem = replace(problem, folder=folder / problem.name)
    problem.train_teacher(problem.folder / "teacher")
    problem.run(PRESETS, SEEDS[profile])
    if profile == "quick":
        problem.run(ablation(), SEEDS[profile])
        name = f"{problem.name}-validation"
        chosen = variant(problem, folder / name, name=name, test=problem.validation)
        chosen.run(choices(), CHOICE_SEEDS)
        keep(chosen.folder, chosen.test)
    keep(problem.folder, problem.test, problem.validation)


def command(main: Callable, arguments: list[str], choices: Sequence[str] = ()) -> None:
    """Call `main` with a folder, and with one of the choices if given; errors are one sentence."""
    if not 1 <= len(arguments) <= 1 + bool(choices) or not set(arguments[1:]) <= set(choices):
        more = f", then {' or '.join(choices)}" if choices else ""
        sys.exit(f"Name a folder for the networks and records of all runs{more}.")
    try:
        main(Path(arguments[0]), *arguments[1:])
    except KeyboardInterrupt:
        sys.exit("Interrupted" + GOES_ON)
    except Exception as error:
        said = failures.sentence(error, arguments[0])
        if said is None:
            raise
        sys.exit(said + GOES_ON * isinstance(error, BrokenExecutor))


if __name__ == "__main__":
    command(main, sys.argv[1:], ("quick", "full"))
