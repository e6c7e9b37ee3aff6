"""How long runs are going to take here, and how far they are.

A job is a dictionary with the arguments of `experiments.run`. What is in its folder already does
not count.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from . import experiments, records
from .exits import build_student
from .recipes import default_device

LONG = 2e13  # FLOPs: a few minutes on two cores
SECONDS = 10.0  # spent on measuring, where a training is longer than that


def forecast(jobs: Sequence[dict], workers: int) -> None:
    """Say on stderr how long the jobs will take, where they take long.

    Their networks then train for some seconds, in as many processes as the jobs will have.
    """
    left = [(job, epochs) for job in jobs if (epochs := epochs_left(job))]
    if sum(epochs * _flops(job) for job, epochs in left) < LONG:
        return
    from joblib import Parallel

    began, paces = time.perf_counter(), {}
    kinds = {_kind(job): job for job, _ in left}
    for kind, job in kinds.items():
        given = [job[key] for key in ("objectives", "network", "train", "recipe")]
        given += [job["teacher_path"], SECONDS / len(kinds)]
        measure = experiments.elsewhere(experiments.pace, *given)
        paces[kind] = sum(Parallel(workers)([measure] * workers)) / workers
    measured = time.perf_counter() - began
    loads = [0.0] * workers
    for job, epochs in left:
        share = epochs / len(job["objectives"])
        loads[loads.index(min(loads))] += paces[_kind(job)] * share * _images(job)
    runs = 0
    for job, _ in left:
        done = experiments.epochs_done(job["folder"], job["objectives"], job["recipe"])
        runs += sum(epochs < job["recipe"].epochs for epochs in done.values())
    sizes = {(job["recipe"].epochs, len(job["train"])) for job, _ in left}
    size = " of {} epochs on {:,} images".format(*sizes.pop()) if len(sizes) == 1 else ""
    print(
        f"{runs} {'run' if runs == 1 else 'runs'}{size}: "
        f"about {duration(max(loads))} on {_place(workers)} (measured for {measured:.0f} s)",
        file=sys.stderr,
    )


@contextmanager
def bar(jobs: Sequence[dict]) -> Iterator[None]:
    """Show a progress bar of the epochs that the jobs have on disk, looked up every second."""
    from tqdm import tqdm

    total = sum(job["recipe"].epochs * len(job["objectives"]) for job in jobs)
    ended = threading.Event()

    def done() -> int:
        return total - sum(map(epochs_left, jobs))

    with tqdm(total=total, initial=done(), unit="epoch", smoothing=0) as shown:

        def follow():
            while not ended.wait(1):
                shown.update(done() - shown.n)

        watcher = threading.Thread(target=follow)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            shown.update(done() - shown.n)


def epochs_left(job: dict) -> int:
    """Epochs of all its students together that a job has before it."""
    done = experiments.epochs_done(job["folder"], job["objectives"], job["recipe"])
    return job["recipe"].epochs * len(done) - sum(done.values())


def duration(seconds: float) -> str:
    """Such as "1 h 10 min"."""
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _kind(job: dict) -> tuple[str, ...]:
    return tuple(job["objectives"])


def _images(job: dict) -> float:
    """Images of an epoch; one of the test counts a third, as it has no backward pass."""
    tests = 1 if job["every_epoch"] else 1 / job["recipe"].epochs
    return len(job["train"]) + tests * len(job["test"]) / 3


def _flops(job: dict) -> float:
    """FLOPs of one epoch of one student with all its exits."""
    train = job["train"]
    student = build_student(classes=len(train.classes), input_shape=train.shape, **job["network"])
    return 3 * student.flops()[-1] * _images(job)


def _place(workers: int) -> str:
    device = default_device()
    if device.type != "cpu":
        return records.hardware(device)
    cores = workers if workers > 1 else torch.get_num_threads()
    return f"{cores} CPU {'core' if cores == 1 else 'cores'}"
