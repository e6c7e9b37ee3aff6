"""Whole experiments: train a teacher and students, evaluate them, write their records.

An experiment lives in a folder with one folder for the teacher and one for each seed. These have a
checkpoint and a record for every method. Whatever is there already is not trained again. While
methods train side by side, their state is in a folder `unfinished-` and a digest of their names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from . import checkpoints, networks, records, training, voting
from .data import Images
from .exits import MultiExitNet, build_student
from .losses import Objective
from .recipes import Recipe, choose_precision, default_device, this_process
from .training import Student, evaluate, fit

TEACHER_SEED = 100  # not a student's seed, so that the teacher shares no weights with one


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
    every_epoch: bool = True,
) -> list[dict]:
    """Train one student for each objective side by side, and record them.

    A method whose record is in the folder is not trained again. A run that was interrupted
    goes on from the last epoch that is on disk. While another run of the same methods is in the
    folder, it waits for that one.

    Args:
        folder: of this experiment and seed; made where it is missing.
        name: of the experiment, for the records.
        objectives: by method.
        network: arguments of `exits.build_student` but classes, images, exits and seed.
        train: training images.
        test: what the last epoch is evaluated on.
        recipe: how to train; its seed also draws the weights.
        teacher_path: checkpoint of the teacher, where an objective needs one. The images are then
            normalised as the teacher's were.
        progress: show progress bars.
        every_epoch: evaluate after every epoch too, for the curve.

    Returns:
        The records, in the order of the objectives.

    Raises:
        ValueError: for a method's name that no file can have, a teacher of other classes, and as
            `training.fit`.
        records.RecordError: where the folder has a record of other settings, or a network without
            a record.
        checkpoints.CheckpointError: for a damaged teacher or state.
        OSError: for a folder that cannot be made; before any training.
        training.TrainingDiverged: for a loss that is not finite.
    """
    folder = Path(folder)
    for method in objectives:
        if not method or re.search(r'[<>:"/\\|?*]|\.(record|analysis)$', method):
            raise ValueError(
                f"got the method {method!r}: its name becomes that of a file, so use none of "
                '<>:"/\\|?* and neither .record nor .analysis at its end'
            )
    teacher, digest = None, None
    if teacher_path is not None:
        teacher, about = checkpoints.load_network(teacher_path)
        digest = about["sha256"]
        train, test = (_as_taught(images, about, teacher_path) for images in (train, test))
    built = {
        method: Student(_student(network, objective, train, recipe.seed), objective)
        for method, objective in objectives.items()
    }
    data = _data_settings(train, test)
    settings = {
        method: {"configuration": _configuration(student, recipe, digest), "data": data}
        for method, student in built.items()
    }
    paths = {method: _record_path(folder, method) for method in objectives}
    state = state_path(folder, objectives)
    done = not state.exists() and all(path.exists() for path in paths.values())
    if done and all(_trained(folder, method, settings[method]) for method in objectives):
        return [records.read(path) for path in paths.values()]

    validation = test if every_epoch else None
    training.check_fit(built, train, teacher, validation)  # before the folder is touched
    precision = choose_precision(recipe.precision, default_device())
    with _alone(state.parent):
        started = checkpoints.read(state)[1].get("history", {}) if state.exists() else {}
        students = {
            method: student
            for method, student in built.items()
            if method in started or not _trained(folder, method, settings[method])
        }
        if students:
            process = this_process()
            origin = records.provenance(process.device, process.num_processes, precision)
            history = fit(students, train, recipe, teacher, validation, state.parent, progress)
            if process.is_main_process:
                for method, student in students.items():
                    record = {"format": 1, "experiment": name, "method": method}
                    record |= {"seed": recipe.seed, "provenance": origin, **settings[method]}
                    record |= _results(student, history[method], test, recipe)
                    own = folder / f"{method}.json"
                    weights = checkpoints.save_network(own, student.network, train)
                    records.write({**record, "weights sha256": weights}, paths[method])
                checkpoints.remove(state)
                shutil.rmtree(state.parent, ignore_errors=True)
            process.wait_for_everyone()
    return [records.read(path) for path in paths.values()]


def _as_taught(images: Images, about: dict, teacher_path: Path) -> Images:
    """The images, normalised as the teacher's were; `fit` says where the two do not fit.

    Raises:
        ValueError: for as many classes as the teacher's, but others.
    """
    known = about["classes"]
    if len(known) == len(images.classes) and tuple(known) != tuple(images.classes):
        raise ValueError(
            f"{teacher_path} knows the classes {', '.join(known[:3])} ..., {images.name} has "
            f"{', '.join(images.classes[:3])} ...: give a teacher of the same classes"
        )
    same_channels = len(about["mean"]) == images.shape[0]
    return checkpoints.as_trained(images, about) if same_channels else images


def _trained(folder: Path, method: str, settings: dict) -> bool:
    """Whether the method's record is in the folder.

    Raises:
        records.RecordError: as `run`.
    """
    path, network = _record_path(folder, method), folder / f"{method}.json"
    if not path.exists():
        if network.exists():
            raise records.RecordError(
                f"{network} has no record beside it, and training would replace it; "
                "give another folder"
            )
        return False
    found = records.read(path)
    data = dict(settings["data"])
    if "normalisation" not in found["data"]:  # records before 28 November 2026
        del data["normalisation"]
    if found["configuration"] != settings["configuration"] or found["data"] != data:
        raise records.RecordError(f"{path} is of a run with other settings; give another folder")
    return True


def _record_path(folder: Path, method: str) -> Path:
    return Path(folder) / f"{method}{records.SUFFIX}"


@contextlib.contextmanager
def _alone(unfinished: Path) -> Iterator[None]:
    """Only one run of the same methods is in a folder; others wait, then see what it left.

    Args:
        unfinished: the folder of the run's state. The one around it is made.
    """
    process, lock = this_process(), unfinished.with_name(f".{unfinished.name}.lock")
    with contextlib.ExitStack() as held:
        if process.is_main_process:
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(FileLock(lock, timeout=0))
            except Timeout:
                where = f"another run of the same methods in {lock.parent}"
                print(f"waiting for {where}", file=sys.stderr, flush=True)
                held.enter_context(FileLock(lock))
        process.wait_for_everyone()
        yield


def state_path(folder: Path, methods: Iterable[str]) -> Path:
    """Where the state of these methods is while they train side by side in a folder."""
    digest = hashlib.sha256("\n".join(sorted(methods)).encode()).hexdigest()[:8]
    return Path(folder) / f"unfinished-{digest}" / "state.json"


def epochs_done(folder: Path, methods: Collection[str], recipe: Recipe) -> dict[str, int]:
    """How many epochs of each of these methods `run` has behind it, as the folder tells."""
    try:
        started = json.loads(state_path(folder, methods).read_text("utf-8"))["history"]
    except (OSError, ValueError, KeyError):
        started = {}
    return {
        method: recipe.epochs
        if _record_path(folder, method).exists()
        else len(started.get(method, ()))
        for method in methods
    }


def pace(
    objectives: Mapping[str, Objective],
    network: Mapping,
    train: Images,
    recipe: Recipe,
    teacher_path: Path | None,
    seconds: float,
) -> float:
    """Seconds that `run` takes for one image; see `training.pace`. Nothing is written."""
    teacher = checkpoints.load_network(teacher_path)[0] if teacher_path else None
    students = {
        method: Student(_student(network, objective, train, recipe.seed), objective)
        for method, objective in objectives.items()
    }
    return training.pace(students, train, recipe, teacher, seconds)


def elsewhere(function: Callable, *args, **kwargs) -> tuple[Callable, tuple, dict]:
    """`joblib.delayed`, with the networks and voting rules that were added here.

    On POSIX systems a process that this one started for it ends soon after this one does, however
    that ends.
    """
    from joblib import delayed

    added = networks.BUILDERS, voting.RULES
    return delayed(_there)(os.getpid(), *added, function, args, kwargs)


def _there(
    caller: int, builders: Mapping, rules: Mapping, function: Callable, args: tuple, kwargs: dict
):
    if os.getppid() == caller:
        end_with(caller)
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a killed worker would leak
    networks.BUILDERS.update(builders)
    voting.RULES.update(rules)
    return function(*args, **kwargs)


@functools.cache
def end_with(parent: int) -> None:
    """End this process soon after its parent ended.

    A killed command or kernel would leave trainings behind, beside those of its next start.
    """

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _student(network: Mapping, objective: Objective, data: Images, seed: int) -> MultiExitNet:
    return build_student(
        classes=len(data.classes),
        input_shape=data.shape,
        exits=objective.exits,
        seed=seed,
        **network,
    )


def _configuration(student: Student, recipe: Recipe, teacher: str | None) -> dict:
    """What is trained and how, as it comes back from JSON."""
    found = {
        "network": student.network.config,
        "objective": student.objective.settings(),
        "recipe": dataclasses.asdict(recipe),
        "teacher": teacher if student.objective.teacher else None,
    }
    return json.loads(json.dumps(found))


def _data_settings(train: Images, test: Images) -> dict:
    """The images of all methods of a run, as they come back from JSON."""
    found = {
        "name": train.name,
        "classes": len(train.classes),
        "image shape": train.shape,
        "train images": len(train),
        "train sha256": train.checksum(),
        "test images": len(test),
        "test sha256": test.checksum(),
        "normalisation": [train.mean, train.std],
    }
    return json.loads(json.dumps(found))


def _results(student: Student, curve: list[dict], test: Images, recipe: Recipe) -> dict:
    seconds = sum(row["seconds"] for row in curve)
    shared = sum(row["shared seconds"] for row in curve)
    seen = sum(row["images"] for row in curve)
    return {
        "cost": {
            "seconds": seconds,
            "shared seconds": shared,
            "images per second": seen / seconds,
            "parameters": student.network.parameter_counts(),
            "flops": student.network.flops(),
        },
        "curve": curve,
        "results": evaluate(student.network, test, recipe.precision),
    }
