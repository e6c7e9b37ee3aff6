"""Training and evaluation, for one student or for several that share batches and a teacher.

The loop is ordinary: batches, teacher, students, one step each. What surrounds it is for long
runs: accelerate chooses device, precision and distribution; every `SAVE_EVERY` seconds, after an
epoch, the state goes to disk, and a run that is started again goes on from there, on a CPU to the
very same weights.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import checkpoints, metrics
from .data import Images, batches, memory_format
from .exits import MultiExitNet
from .losses import Objective
from .networks import evaluating
from .recipes import (
    Recipe,
    choose_precision,
    keep_freed_memory,
    learning_rate,
    make_accelerator,
    make_optimizer,
    synchronise,
)

if TYPE_CHECKING:
    from accelerate import Accelerator
    from tqdm import tqdm

SAVE_EVERY = 20.0  # seconds between states on disk; the last epoch's is always kept
CHECK_EVERY = 20  # steps between looks at loss and clock where looking costs a synchronisation


class TrainingDiverged(RuntimeError):
    """A loss that is not finite; the message names step, term and the last good checkpoint."""


@dataclass(frozen=True)
class Student:
    """A network and the objective that trains it."""

    network: MultiExitNet
    objective: Objective


def fit(
    students: Mapping[str, Student],
    data: Images,
    recipe: Recipe,
    teacher: MultiExitNet | None = None,
    validation: Images | None = None,
    folder: Path | None = None,
    progress: bool = True,
) -> dict[str, list[dict]]:
    """Train students side by side on the same batches, with one teacher pass for all.

    Each student has its own optimiser, and none affects another: trained alone, it ends with
    the same weights (in fp16 nearly: students share the scale of the loss). The networks are
    changed in place. On a CPU this process then keeps the memory of freed tensors for its next ones
    (`recipes.keep_freed_memory`).

    Args:
        students: by name.
        data: training images.
        recipe: how to train.
        teacher: a trained network; its deepest exit gives the soft targets. Needed where an
            objective has a teacher term.
        validation: where given, each exit's accuracy on it is noted after every epoch.
        folder: where given, the state is kept there as `state.json`, after an epoch and at most
            every `SAVE_EVERY` seconds, and a run of the same settings goes on from it.
        progress: show a progress bar on stderr, with device and precision.

    Returns:
        For each student one dict an epoch: "epoch" from 1, "lr", the number of "images", the
        mean of each loss term, "train accuracy" of the deepest exit, "seconds" of its own
        steps (on a GPU measured every `CHECK_EVERY` steps), "shared seconds" of batches and
        teacher, and "accuracy" per exit where `validation` is given (of several processes only the
        first one measures it).

    Raises:
        ValueError: where data, students and teacher do not fit together.
        TrainingDiverged: for a loss that is not finite.
        checkpoints.CheckpointError: for a state that is damaged or of other settings.
    """
    check_fit(students, data, teacher, validation)
    accelerator = make_accelerator(recipe.precision)
    steps_an_epoch = -(-len(data) // recipe.batch_size)
    if len(data) // steps_an_epoch < accelerator.num_processes:
        raise ValueError(
            f"{accelerator.num_processes} processes cannot share batches of "
            f"{len(data) // steps_an_epoch} images: raise the batch size"
        )
    from tqdm import tqdm

    run = Run(students, data, recipe, teacher, folder, accelerator)
    try:
        history = run.resume()
        data = data.to(accelerator.device)
        bar = tqdm(
            total=recipe.epochs * steps_an_epoch,
            initial=run.epoch * steps_an_epoch,
            disable=not (progress and accelerator.is_main_process),
            unit="step",
            mininterval=1.0,
        )
        with bar, _callers_draws(accelerator.device):
            for epoch in range(run.epoch + 1, recipe.epochs + 1):
                rows = run.train_epoch(data, epoch, steps_an_epoch, bar)
                for name, row in rows.items():
                    if validation is not None and accelerator.is_main_process:
                        logits = predict(students[name].network, validation, recipe.precision)
                        row["accuracy"] = metrics.accuracy(logits, validation.labels).tolist()
                    history[name].append(row)
                run.save(epoch, history, steps_an_epoch)
    finally:
        run.release()
    return history


def pace(
    students: Mapping[str, Student],
    data: Images,
    recipe: Recipe,
    teacher: MultiExitNet | None = None,
    seconds: float = 10.0,
) -> float:
    """Seconds an image that `fit` takes here, measured on its first steps for so many seconds.

    The arguments are those of `fit`. The networks are trained a little.
    """
    from tqdm import tqdm

    accelerator = make_accelerator(recipe.precision)
    data = data.subset(range(min(len(data), 2 * recipe.batch_size))).to(accelerator.device)
    steps = -(-len(data) // recipe.batch_size)
    run = Run(students, data, recipe, teacher, None, accelerator)
    images, bar = 0, tqdm(disable=True)
    try:
        with _callers_draws(accelerator.device):
            run.train_epoch(data, 1, steps, bar)  # the first steps are slower
            began = time.perf_counter()
            while images == 0 or time.perf_counter() - began < seconds:
                run.train_epoch(data, 1, steps, bar)
                images += len(data)
            return (time.perf_counter() - began) / images
    finally:
        run.release()


def _callers_draws(device: torch.device):
    """A context after which the CPU's and CUDA's random numbers go on as if not drawn."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def check_fit(
    students: Mapping[str, Student],
    data: Images,
    teacher: MultiExitNet | None = None,
    validation: Images | None = None,
) -> None:
    """What `fit` refuses: data, students and teacher that do not fit together.

    Raises:
        ValueError: saying which.
    """
    if not len(data):
        raise ValueError(f"{data.name}: there are no images to train on")
    if validation is not None:
        known, other = ((len(images.classes), images.shape) for images in (data, validation))
        if not len(validation) or known != other:
            raise ValueError(
                f"validation needs images of {known[0]} classes and of the shape {known[1]} as in "
                f"training, got {len(validation)} of {other[0]} classes and of {other[1]}"
            )
    networks = {f"student {name!r}": s.network for name, s in students.items()}
    if teacher is not None:
        networks["teacher"] = teacher
    for name, network in networks.items():
        classes, shape = network.backbone.classifier.out_features, network.backbone.input_shape
        if (classes, shape) != (len(data.classes), data.shape):
            size, own = (" x ".join(map(str, s)) for s in (shape, data.shape))
            raise ValueError(
                f"the {name} knows {classes} classes of images of {size}, "
                f"{data.name} has {len(data.classes)} classes of {own}"
            )
    needy = [name for name, student in students.items() if student.objective.teacher]
    if needy and teacher is None:
        raise ValueError(f"{', '.join(needy)} learn from a teacher, and none was given")


class Run:
    """The moving parts of one call of `fit`: prepared models, optimisers, state on disk."""

    def __init__(
        self,
        students: Mapping[str, Student],
        data: Images,
        recipe: Recipe,
        teacher: MultiExitNet | None,
        folder: Path | None,
        accelerator: Accelerator,
    ):
        self.students, self.recipe, self.accelerator = students, recipe, accelerator
        self.path = None if folder is None else Path(folder) / "state.json"
        self.epoch = 0
        self.saved = time.monotonic()
        self.settings = {
            "data": [data.checksum(), data.mean, data.std],
            "recipe": dataclasses.asdict(recipe),
            "objectives": {n: s.objective.settings() for n, s in students.items()},
            "networks": {n: getattr(s.network, "config", None) for n, s in students.items()},
            "teacher": None if teacher is None else checkpoints.digest(teacher.state_dict()),
            "precision": choose_precision(recipe.precision, accelerator.device),
        }
        if accelerator.device.type == "cpu":
            keep_freed_memory()
        layout = memory_format(accelerator.device)
        self.teacher = None
        if teacher is not None and any(s.objective.teacher for s in students.values()):
            self.teacher = accelerator.prepare_model(
                teacher.to(memory_format=layout), evaluation_mode=True
            ).eval()
        self.models, self.optimizers = {}, {}
        for name, student in students.items():
            network = student.network.to(accelerator.device, memory_format=layout)
            if recipe.compile:
                network.compile()
            optimizer = make_optimizer(network, recipe)
            self.models[name], self.optimizers[name] = accelerator.prepare(network, optimizer)

    def release(self) -> None:
        """Take accelerate's wrappers off again, and its mark, which would keep off new ones."""
        models = [*self.models.values(), *([self.teacher] if self.teacher is not None else [])]
        for model in models:
            network = self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            network._is_accelerate_prepared = False

    def train_epoch(self, data: Images, epoch: int, steps: int, bar: tqdm) -> dict[str, dict]:
        """One pass over the data, of so many steps; a row of the history for each student."""
        recipe, accelerator = self.recipe, self.accelerator
        generator = torch.Generator().manual_seed(1_000_003 * recipe.seed + epoch)
        sums = {name: {} for name in self.models}
        seconds, timed = dict.fromkeys(self.models, 0.0), 0
        began = time.perf_counter()
        rank, processes = accelerator.process_index, accelerator.num_processes
        stream = batches(data, recipe.batch_size, generator, recipe.augment, rank, processes)
        for model in self.models.values():
            model.train()
        for step, (images, labels) in enumerate(stream):
            rate = learning_rate(recipe, (epoch - 1) * steps + step, recipe.epochs * steps)
            teacher_logits = None
            if self.teacher is not None:
                with torch.no_grad():
                    teacher_logits = self.teacher(images).logits[-1]
            on_cpu, last = accelerator.device.type == "cpu", step == steps - 1
            look = on_cpu or last or step % CHECK_EVERY == CHECK_EVERY - 1
            timed += look
            for name in self.models:
                if look:
                    synchronise(accelerator.device)
                start = time.perf_counter()
                torch.manual_seed(hash((recipe.seed, epoch, step, rank)))  # of dropout
                terms = self.step(name, images, labels, teacher_logits, rate)
                for term, value in terms.items():
                    sums[name][term] = sums[name].get(term, 0) + value
                if look:
                    self._check_finite(name, terms, epoch, step)
                    synchronise(accelerator.device)
                    seconds[name] += time.perf_counter() - start
            bar.update()
            if look:
                shown = {n: t["total"] for n, t in sums.items()}
                if len(sums) == 1:  # room for all its terms
                    shown = {term: v for term, v in sums[name].items() if term != "train accuracy"}
                shown = {key: f"{float(value) / (step + 1):.3f}" for key, value in shown.items()}
                where = f"{accelerator.device.type} {self.settings['precision']}"
                bar.set_description(f"{where}, epoch {epoch}/{recipe.epochs}", refresh=False)
                bar.set_postfix(shown, refresh=False)
        means = {
            name: {
                term: float(accelerator.reduce(value, "mean")) / steps
                for term, value in terms.items()
            }
            for name, terms in sums.items()
        }
        seconds = {name: spent * steps / timed for name, spent in seconds.items()}
        shared = max(0.0, time.perf_counter() - began - sum(seconds.values()))
        about = {"epoch": epoch, "lr": rate, "images": len(data), "shared seconds": shared}
        return {name: {**about, "seconds": seconds[name], **means[name]} for name in means}

    def step(
        self, name: str, images: Tensor, labels: Tensor, teacher_logits: Tensor | None, rate: float
    ) -> dict[str, Tensor]:
        """One step of one student; its loss terms by name, and its "train accuracy".

        Args:
            name: of the student.
            images: normalised, `[B, C, H, W]`.
            labels: `[B]`.
            teacher_logits: `[B, C]`, where there is a teacher.
            rate: the learning rate.
        """
        model, optimizer = self.models[name], self.optimizers[name]
        outputs = model(images)
        terms = self.students[name].objective(*outputs, labels, teacher_logits)
        self.accelerator.backward(terms["total"])
        if self.recipe.clip is not None:
            self.accelerator.clip_grad_norm_(model.parameters(), self.recipe.clip)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        right = (outputs.logits[-1].detach().argmax(-1) == labels).float().mean()
        return {**{term: value.detach() for term, value in terms.items()}, "train accuracy": right}

    def _check_finite(self, name: str, terms: dict[str, Tensor], epoch: int, step: int) -> None:
        bad = [term for term, value in terms.items() if not math.isfinite(value)]
        if bad:
            self._diverged(
                f"{name}: the loss term {bad[0]!r} is {float(terms[bad[0]])}", epoch, step
            )

    def _diverged(self, what: str, epoch: int, step: int) -> None:
        good = "none"
        if self.path is not None and self.path.exists():
            good = f"{self.path} (epoch {checkpoints.read(self.path)[1]['epoch']})"
        raise TrainingDiverged(
            f"{what} at epoch {epoch}, step {step + 1}; last good checkpoint: {good}; "
            "try a lower learning rate or gradient clipping"
        )

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, in place: weights, norms and momentum."""
        tensors = {}
        for name, student in self.students.items():
            network = student.network
            tensors |= {f"{name}/network/{k}": v for k, v in network.state_dict().items()}
            state = self.optimizers[name].state
            for key, parameter in network.named_parameters():
                tensors[f"{name}/momentum/{key}"] = state[parameter]["momentum_buffer"]
        return tensors

    def save(self, epoch: int, history: dict, steps: int) -> None:
        """Keep the state after this epoch of so many steps, if it is time and all is finite."""
        self.epoch = epoch
        if time.monotonic() - self.saved < SAVE_EVERY and epoch < self.recipe.epochs:
            return
        for name, student in self.students.items():
            for key, value in student.network.state_dict().items():
                if not value.isfinite().all():
                    self._diverged(f"{name}: {key} is not finite", epoch, steps - 1)
        if self.path is not None and self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            about = {
                "kind": "state",
                "epoch": epoch,
                "settings": self.settings,
                "history": history,
                "scaler": None if scaler is None else scaler.state_dict(),
            }
            checkpoints.write(self.path, self._tensors(), about)
        self.saved = time.monotonic()

    @torch.no_grad()
    def resume(self) -> dict[str, list[dict]]:
        """Take up the state on disk, if there is one; the history so far.

        Raises:
            checkpoints.CheckpointError: for a state that is damaged or of other settings.
        """
        if self.path is None or not self.path.exists():
            return {name: [] for name in self.students}
        saved, about = checkpoints.read(self.path)
        settings = json.loads(json.dumps(self.settings))
        if about.get("settings") != settings:
            raise checkpoints.CheckpointError(
                f"{self.path} belongs to a run with other settings; give another folder"
            )
        try:
            for name, tensor in self._tensors().items():
                tensor.copy_(saved[name])
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(about["scaler"])
            self.epoch = int(about["epoch"])
            return {name: about["history"][name] for name in self.students}
        except (KeyError, TypeError, ValueError, RuntimeError):
            raise checkpoints.CheckpointError(
                f"{self.path} is damaged or of another version; delete it to start anew"
            ) from None


def predict(
    network: MultiExitNet, data: Images, precision: str = "auto", batch_size: int = 512
) -> Tensor:
    """Logits `[K, N, C]` of all images, in float32 on the CPU.

    Args:
        network: used where it is, in evaluation mode.
        data: images and their normalisation.
        precision: as in `Recipe`.
        batch_size: images at a time.
    """
    device = next(network.parameters()).device
    precision = choose_precision(precision, device)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    autocast = torch.autocast(device.type, half, enabled=half is not None)
    with evaluating(network), torch.inference_mode(), autocast:
        parts = [
            network(images).logits.float().cpu()
            for images, _ in batches(data.to(device), batch_size)
        ]
    return torch.cat(parts, dim=1)


def evaluate(network: MultiExitNet, data: Images, precision: str = "auto") -> dict:
    """Accuracy, top-5, NLL and ECE of every exit and vote; see `metrics.summarise`.

    The arguments are those of `predict`.
    """
    return metrics.summarise(predict(network, data, precision), data.labels)
