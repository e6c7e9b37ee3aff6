"""The problem that all chapters share: few labelled images, and a teacher that saw many.

A chapter trains on it, looks at what came out, and holds its own numbers against runs of ours
with more seeds, whose records are in the repository. The profile "quick" takes the embedded
digits and minutes on a CPU, "full" takes CIFAR-100 and hours.
"""

from __future__ import annotations

import atexit
import functools
import operator
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from . import checkpoints, data, experiments, metrics, progress, records
from .exits import MultiExitNet
from .losses import PRESETS, Objective
from .recipes import Recipe, default_device
from .training import predict

if TYPE_CHECKING:
    import pandas as pd


def _scratch() -> Path:
    """A folder that is gone when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="tskd-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class Study:
    """Images, networks and recipes of one problem.

    Attributes:
        name: of the problem, and of the folder with our records.
        train: labelled images that the teacher sees, and of which a student sees `shots` a class.
        validation: for choices; neither teacher nor students see it.
        test: for results.
        shots: images of each class that a student is trained on.
        student: arguments of `exits.build_student` but classes, images, exits and seed.
        student_recipe: how to train a student; the seed is replaced.
        teacher_network: as `student`.
        teacher_recipe: how the teacher was trained.
        folder: where `run` keeps networks and records.
    """

    name: str
    train: data.Images
    validation: data.Images
    test: data.Images
    shots: int
    student: Mapping
    student_recipe: Recipe
    teacher_network: Mapping
    teacher_recipe: Recipe
    folder: Path = field(default_factory=_scratch)

    def few(self, seed: int) -> data.Images:
        """The images that the student of this seed is trained on."""
        return data.per_class(self.train, self.shots, seed)

    def teacher_path(self) -> Path:
        """The teacher's checkpoint: that in the folder, else ours, else one trained now."""
        for place in (self.folder, records.COMMITTED / self.name):
            path = place / "teacher" / "teacher.json"
            if path.exists():
                return path
        return self.train_teacher(self.folder / "teacher")

    def teacher_job(self, folder: Path) -> dict:
        """What `experiments.run` is to be given to train the teacher in a folder."""
        return {
            "folder": folder,
            "name": self.name,
            "objectives": {"teacher": PRESETS["baseline"]},
            "network": self.teacher_network,
            "train": self.train,
            "test": self.test,
            "recipe": self.teacher_recipe,
            "teacher_path": None,
            "every_epoch": True,
        }

    def train_teacher(self, folder: Path) -> Path:
        """Train the teacher, unless it is in the folder already; its checkpoint."""
        job = self.teacher_job(folder)
        progress.forecast([job], 1)
        experiments.run(**job)
        return folder / "teacher.json"

    def teacher(self) -> MultiExitNet:
        """The trained teacher; its only exit is the deepest."""
        return checkpoints.load_network(self.teacher_path())[0]

    def run(
        self, objectives: Mapping[str, Objective], seeds: Iterable[int] = range(3)
    ) -> pd.DataFrame:
        """Train and test one student for each objective and seed; see `records.frame`.

        A seed draws the student's images, weights and batches, the same for all objectives.
        What was run before is not run again. A run that was interrupted goes on from its last epoch
        where seeds and cores are as many as before.
        """
        return run_jobs(self.jobs(objectives, seeds))

    def jobs(self, objectives: Mapping[str, Objective], seeds: Iterable[int]) -> list[dict]:
        """What `run_jobs` is to be given for each objective and seed.

        On a CPU every core trains a seed of its own, whose students share batches and teacher. The
        students of seeds that are then left over, which would leave cores idle, train one by one.
        """
        seeds = [operator.index(seed) for seed in dict.fromkeys(seeds)]
        even = len(seeds) - len(seeds) % cores()
        alone = [{method: objective} for method, objective in objectives.items()]
        rest = [self.job(group, seed) for seed in seeds[even:] for group in alone]
        return [*(self.job(objectives, seed) for seed in seeds[:even]), *rest]

    def job(self, objectives: Mapping[str, Objective], seed: int) -> dict:
        """What `experiments.run` is to be given to train these side by side with one seed."""
        taught = any(objective.teacher for objective in objectives.values())
        return {
            "folder": self.folder / f"seed-{seed}",
            "name": self.name,
            "objectives": objectives,
            "network": self.student,
            "train": self.few(seed),
            "test": self.test,
            "recipe": replace(self.student_recipe, seed=seed),
            "teacher_path": self.teacher_path() if taught else None,
            "progress": False,
            "every_epoch": False,
        }

    def network(self, method: str, seed: int = 0) -> MultiExitNet:
        """A student that `run` has trained."""
        return checkpoints.load_network(self.network_path(method, seed))[0]

    def network_path(self, method: str, seed: int = 0) -> Path:
        """The checkpoint of a student that `run` has trained."""
        return self.folder / f"seed-{seed}" / f"{method}.json"

    def logits(self, method: str, seed: int = 0, images: data.Images | None = None) -> Tensor:
        """What that student says of the images, by default those of the test: `[K, N, C]`.

        The images are normalised as in its training.
        """
        network, about = checkpoints.load_network(self.network_path(method, seed))
        images = checkpoints.as_trained(self.test if images is None else images, about)
        return predict(network.to(default_device()), images, self.student_recipe.precision)

    def ours(self) -> pd.DataFrame:
        """The results of our own runs of this problem; see `records.frame`.

        Raises:
            RecordError: where none has been run for this profile.
        """
        return _committed(self.name).copy()

    def against_ours(self, results: pd.DataFrame) -> pd.DataFrame:
        """Your accuracy beside ours, in percent: a row for each method and answer in both.

        Left out is what has a single seed of ours, such as the teacher.
        "low" and "high" bound where the mean of as many new seeds as yours lies in 95 of 100
        cases, if they are run as ours were (`metrics.prediction_interval`); "inside" says if yours
        does.
        """
        import pandas as pd

        def by_answer(frame):
            return (100 * frame.accuracy).groupby([frame.method, frame.answer], sort=False)

        ours, rows = dict(list(by_answer(self.ours()))), {}
        for key, values in by_answer(results):
            if len(ours.get(key, ())) > 1:
                low, high = metrics.prediction_interval(ours[key], len(values))
                mean = values.mean()
                rows[key] = [mean, ours[key].mean(), low, high, low <= mean <= high]
        names = pd.MultiIndex.from_tuples(rows, names=["method", "answer"])
        columns = ["yours", "ours", "low", "high", "inside"]
        return pd.DataFrame(list(rows.values()), names, columns).round(1)


def cores() -> int:
    """How many runs go on at the same time: one on each core of a CPU, else one."""
    from joblib import cpu_count

    return cpu_count() if default_device().type == "cpu" else 1


def run_jobs(jobs: Sequence[Mapping]) -> pd.DataFrame:
    """Carry out jobs of `Study.job` and `Study.teacher_job`; see `records.frame`.

    On a CPU every core has a job of its own, because steps this small gain nothing from a second
    thread.

    Raises:
        ValueError: where there is no job; for the rest see `experiments.run`.
    """
    from joblib import Parallel, parallel_config

    if not any(job["objectives"] for job in jobs):
        raise ValueError("there is nothing to run: give at least one objective and one seed")

    workers = min(len(jobs), cores())
    with parallel_config("loky", inner_max_num_threads=1):
        progress.forecast(jobs, workers)
        with progress.bar(jobs):
            runs = (experiments.elsewhere(experiments.run, **job) for job in jobs)
            found = Parallel(workers)(runs)
    return records.frame(record for run in found for record in run)


@functools.cache
def _committed(name: str) -> pd.DataFrame:
    return records.frame(records.read_all(records.COMMITTED / name))


def load(profile: str = "quick", root: Path | str = "data") -> Study:
    """The problem of a profile.

    Args:
        profile: "quick" for digits, "full" for CIFAR-100.
        root: where the data is or goes; see `data.load`.

    Raises:
        ValueError: for another profile.
        files.DataError: where images are missing and cannot be downloaded.
    """
    if profile not in ("quick", "full"):
        raise ValueError(f"unknown profile {profile!r}: TSKD_PROFILE is 'quick' or 'full'")
    quick = profile == "quick"
    images, test = data.load("digits" if quick else "cifar100", root)
    train, validation = data.split(images, (0.75, 0.25) if quick else (0.9, 0.1), seed=0)
    augment = data.default_augment(images)
    return Study(
        name="digits-few" if quick else "cifar100-few",
        train=train,
        validation=validation,
        test=test,
        shots=10 if quick else 100,
        student={"name": "resnet10", "width": 0.125 if quick else 0.25},
        student_recipe=Recipe(
            epochs=60 if quick else 30,
            batch_size=50 if quick else 128,
            learning_rate=0.1,
            augment=augment,
        ),
        teacher_network={"name": "resnet10", "width": 0.25 if quick else 0.5},
        teacher_recipe=Recipe(
            epochs=12 if quick else 30,
            batch_size=128,
            learning_rate=0.1,
            augment=augment,
            seed=experiments.TEACHER_SEED,
        ),
        **({} if quick else {"folder": Path("runs") / "cifar100-few"}),
    )
