"""Whole experiments: train a teacher and students, evaluate them, write their records.

An experiment lives in a folder: `teacher.json`, and for each seed a folder with one checkpoint
and one record for every method. Whatever is there already is not trained again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from . import checkpoints, metrics, records, voting
from .data import Images
from .exits import MultiExitNet, build_student
from .losses import Objective
from .training import Recipe, Student, choose_precision, fit, make_accelerator, predict


def summarise(logits: Tensor, labels: Tensor) -> dict:
    """Accuracy, top-5, NLL and ECE of every exit and every vote, and the oracle's accuracy.

    Args:
        logits: `[K, N, C]`.
        labels: `[N]`.
    """

    def quality(probabilities: Tensor) -> dict:
        classes = probabilities.shape[-1]
        return {
            "accuracy": float(metrics.accuracy(probabilities, labels)),
            "top5": float(metrics.accuracy(probabilities, labels, top=min(5, classes))),
            "nll": float(metrics.nll(probabilities, labels)),
            "ece": float(metrics.calibration(probabilities, labels).ece),
        }

    right = logits.argmax(-1) == labels
    return {
        "exits": [quality(p) for p in voting.probabilities(logits)],
        "votes": {rule: quality(voting.vote(logits, rule)) for rule in voting.RULES},
        "oracle": float(right.any(0).float().mean()),
    }


def run(
    folder: Path,
    name: str,
    objectives: Mapping[str, Objective],
    network: Mapping,
    train: Images,
    test: Images,
    recipe: Recipe,
    teacher_path: Path | None = None,
    progress: bool = True,
) -> list[dict]:
    """Train one student for each objective side by side, and record them.

    A method whose record is in the folder is not trained again. A run that was interrupted
    goes on from its last epoch.

    Args:
        folder: of this experiment and seed; made where it is missing.
        name: of the experiment, for the records.
        objectives: by method.
        network: arguments of `exits.build_student` but classes, images, exits and seed.
        train: training images.
        test: what the last epoch is evaluated on, once.
        recipe: how to train; its seed also draws the weights.
        teacher_path: checkpoint of the teacher, where an objective needs one.
        progress: show progress bars.

    Returns:
        The records, in the order of the objectives.
    """
    folder = Path(folder)
    paths = {method: folder / f"{method}.record.json" for method in objectives}
    todo = {m: o for m, o in objectives.items() if not paths[m].exists()}
    if todo:
        teacher, about = None, {"sha256": None}
        if teacher_path is not None:
            teacher, about = checkpoints.load_network(teacher_path)
        accelerator = make_accelerator(recipe.precision)
        precision = choose_precision(recipe.precision, accelerator.device)
        origin = records.provenance(accelerator.device, accelerator.num_processes, precision)
        students = {
            method: Student(_student(network, objective, train, recipe.seed), objective)
            for method, objective in todo.items()
        }
        history = fit(students, train, recipe, teacher, test, folder, progress)
        for method, student in students.items():
            digest = checkpoints.save_network(folder / f"{method}.json", student.network, train)
            uses = about["sha256"] if student.objective.teacher else None
            logits = predict(student.network, test, recipe.precision)
            record = _record(student, history[method], train, test, recipe, logits)
            record |= {"experiment": name, "method": method, "provenance": origin}
            record["configuration"]["teacher"] = uses
            record["weights sha256"] = digest
            if accelerator.is_main_process:
                records.write(record, paths[method])
        (folder / "state.json").unlink()
        for left in folder.glob("state-????????.safetensors"):
            left.unlink()
    return [records.read(path) for path in paths.values()]


def _student(network: Mapping, objective: Objective, data: Images, seed: int) -> MultiExitNet:
    return build_student(
        classes=len(data.classes),
        input_shape=data.shape,
        exits=objective.exits,
        seed=seed,
        **network,
    )


def _record(
    student: Student, curve: Sequence[dict], train: Images, test: Images, recipe, logits
) -> dict:
    seconds = sum(row["seconds"] for row in curve)
    return {
        "format": 1,
        "seed": recipe.seed,
        "configuration": {
            "network": student.network.config,
            "objective": dataclasses.asdict(student.objective),
            "recipe": dataclasses.asdict(recipe),
        },
        "data": {
            "name": train.name,
            "classes": len(train.classes),
            "train images": len(train),
            "train sha256": train.checksum(),
            "test images": len(test),
            "test sha256": test.checksum(),
        },
        "cost": {
            "seconds": seconds,
            "images per second": len(curve) * len(train) / seconds,
            "parameters": student.network.parameter_counts(),
            "flops": student.network.flops(),
        },
        "curve": list(curve),
        "results": summarise(logits, test.labels),
    }
