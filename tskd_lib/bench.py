"""What `tskd bench` measures: the speed of training on this machine, as ratios."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median

import torch

from . import data, experiments, losses, recipes, records, training
from .exits import build_student
from .timing import (
    ROWS,
    break_even,
    judge,
    profile,
    ratios,
    table,
    take_turns,
    write,
)

IMPORTS = {
    "import torch, torchvision": "import torch, torchvision",
    "import tskd_lib": "import torch, torchvision, tskd_lib",
    "import all of tskd_lib": "import torch, torchvision; from tskd_lib import *",
}
RATE = 0.01  # learning rate; it does not change the speed


@dataclass(frozen=True)
class Workload:
    """What is timed: two networks as (name, width), the images, and how many at a time.

    An epoch is `large_steps` batches for the large network, `small_steps` for the small one.
    """

    large: tuple[str, float] = ("resnet18", 1.0)
    small: tuple[str, float] = ("resnet10", 0.25)
    classes: int = 100
    image_size: int = 32
    batch_size: int = 256
    large_steps: int = 2
    small_steps: int = 16
    matrices: tuple[int, ...] = (1024, 2048, 4096)

    def images(self, steps: int = 1) -> data.Images:
        """Noise for so many batches, on the device of training."""
        size = (steps * self.batch_size, 3, self.image_size, self.image_size)
        pixels, labels = torch.randint(256, size).byte(), torch.randint(self.classes, size[:1])
        names = tuple(str(i) for i in range(self.classes))
        images = data.Images("noise", pixels, labels, names, (0.5,) * 3, (0.25,) * 3)
        return images.to(recipes.default_device())

    def trainer(
        self, network: tuple[str, float], images: data.Images, *methods: str, **recipe
    ) -> training.Run:
        """The library's own training, set up for one network and presets (the baseline)."""
        students, (name, width) = {}, network
        for method in methods or ("baseline",):
            goal = losses.PRESETS[method]
            built = build_student(name, self.classes, images.shape, width=width, exits=goal.exits)
            students[method] = training.Student(built, goal)
        augment = data.default_augment(images)
        recipe = recipes.Recipe(1, self.batch_size, RATE, augment=augment, **recipe)
        accelerator = recipes.make_accelerator(recipe.precision)
        return training.Run(students, images, recipe, None, None, accelerator)

    def step(
        self, run: training.Run, images: data.Images, method: str = "baseline"
    ) -> Callable[[], dict]:
        """A training step on a batch made before; the teacher's logits are noise."""
        pixels, labels = next(data.batches(images, self.batch_size))
        noise = torch.randn(len(labels), self.classes, device=labels.device)
        return partial(run.step, method, pixels, labels, noise, RATE)


def multi_exit(record: dict, work: Workload) -> None:
    """A TSKD step against a plain one, and plain training against bare matrix products."""
    images, (name, _) = work.images(), work.large
    run = work.trainer(work.large, images, "baseline", "tskd")
    steps = {
        f"{name}, plain step": work.step(run, images),
        f"{name}, TSKD step": work.step(run, images, "tskd"),
    }
    products = matrix_products(work.matrices, record["provenance"]["precision"])
    turns = take_turns(record, {**steps, **products}, work.batch_size)
    for product in products:
        del record["timings"][product]["images per second"]
    plain, tskd, *others = turns.values()
    flops = 3 * work.batch_size * run.students["baseline"].network.flops()[-1]
    ideal = [min(times) * flops / (2 * max(work.matrices) ** 3) for times in zip(*others)]
    record["results"] |= {
        f"{name}, TSKD step / plain step, images/s": judge(ratios(plain, tskd), at_least=0.9),
        f"{name}, plain step / bare matrix products, FLOP/s": judge(ratios(ideal, plain)),
    }
    record["profiles"] |= {title: profile(step) for title, step in steps.items()}


def matrix_products(sizes: Sequence[int], precision: str) -> dict[str, Callable[[], None]]:
    """Products of square matrices, each repeated to the FLOPs of the largest."""
    device = recipes.default_device()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)

    def run(a, b, out, times: int) -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    return {
        f"{precision} matrix products, {n} x {n}": partial(
            run, *torch.randn(3, n, n, device=device).to(dtype), (max(sizes) // n) ** 3
        )
        for n in sizes
    }


def default_step(
    record: dict, work: Workload, network: tuple[str, float], steps: int, bar: float
) -> None:
    """The library's epoch against that of an ordinary script: fp32, NCHW, a per-sample DataLoader.

    The script has a process of its own, because the library changes how its process keeps memory
    (`recipes.keep_freed_memory`). Its images come in that process or from one worker a thread,
    whichever is faster.
    """
    from tqdm import tqdm

    images, (name, _) = work.images(steps), network
    ours, default = work.trainer(network, images), f"{name}, default"
    entrants = {default: partial(ours.train_epoch, images, 1, steps, tqdm(disable=True))}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, _start_script, (os.getpid(),)) as elsewhere:

        def script(workers: int) -> None:
            elsewhere.submit(script_epoch, work, network, steps, workers).result()

        for workers in (0, torch.get_num_threads()):
            entrants[f"{name}, fp32 NCHW PIL script, {workers} workers"] = partial(script, workers)
        turns = take_turns(record, entrants, len(images))
    best = min(list(turns)[1:], key=lambda title: median(turns[title]))
    result = judge(ratios(turns[best], turns[default]), at_least=bar)
    record["results"][f"{default} / {best.split(', ', 1)[1]}, images/s"] = result


def _start_script(parent: int) -> None:
    """An interruption is the parent's to report, and with it the script ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    experiments.end_with(parent)


def script_epoch(work: Workload, network: tuple[str, float], steps: int, workers: int) -> None:
    """An epoch of so many steps, trained as an ordinary script does it."""
    model, optimizer, loader = _script(work, network, steps, workers)
    device = recipes.default_device()
    for pixels, labels in loader:
        logits = model(pixels.to(device)).logits[-1]
        torch.nn.functional.cross_entropy(logits, labels.to(device)).backward()
        optimizer.step()
        optimizer.zero_grad()
    recipes.synchronise(device)


@cache
def _script(work: Workload, network: tuple[str, float], steps: int, workers: int):
    """Network, optimiser and DataLoader of the script; every epoch gets the same ones."""
    images, (name, width) = work.images(steps), network
    model = build_student(name, work.classes, images.shape, width=width, exits="deepest")
    model.to(recipes.default_device()).train()
    loader = torch.utils.data.DataLoader(
        pil_images(images),
        work.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=images.images.is_cuda,
    )
    optimizer = torch.optim.SGD(model.parameters(), RATE, 0.9, weight_decay=5e-4, nesterov=True)
    return model, optimizer, loader


def pil_images(images: data.Images) -> torch.utils.data.Dataset:
    """CIFAR-100 as torchvision reads and augments it, but with these images."""
    from torchvision import datasets, transforms

    samples = datasets.CIFAR100.__new__(datasets.CIFAR100)  # its __init__ wants the files
    samples.data = images.images.movedim(1, -1).contiguous().cpu().numpy()
    samples.targets, samples.target_transform = images.labels.tolist(), None
    crop = transforms.RandomCrop(images.shape[1], data.default_augment(images).pad)
    normalise = transforms.Normalize(images.mean, images.std)
    flip, to_tensor = transforms.RandomHorizontalFlip(), transforms.ToTensor()
    samples.transform = transforms.Compose([crop, flip, to_tensor, normalise])
    return samples


def augmenting(record: dict, work: Workload) -> None:
    """Augmenting, and all of making a batch, as shares of the small network's step."""
    images, (name, _), generator = work.images(), work.small, torch.Generator()
    augment = data.default_augment(images)
    entrants = {
        f"{name}, plain step": work.step(work.trainer(work.small, images), images),
        "augmenting": lambda: augment(images.images, generator),
        "making a batch": lambda: next(data.batches(images, len(images), generator, augment)),
    }
    plain, *shares = take_turns(record, entrants, work.batch_size).values()
    augmented, made = (ratios(share, plain) for share in shares)
    record["results"] |= {
        f"{name}, augmenting / plain step, seconds": judge(augmented, at_most=0.05),
        f"{name}, making a batch / plain step, seconds": judge(made),
    }


def importing(record: dict, imports: Mapping[str, str]) -> None:
    """Seconds of imports over those of the first, in fresh processes; the second has the bar."""
    folder = Path(__file__).resolve().parents[1]

    def start(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)

    turns = take_turns(record, {name: partial(start, code) for name, code in imports.items()})
    (base, without), (name, seconds), *others = turns.items()
    added = judge([a - b for a, b in zip(seconds, without)], at_most=0.3)
    record["results"][f"{name} - {base}, seconds"] = added
    for name, seconds in others:
        added = judge([a - b for a, b in zip(seconds, without)])
        record["results"][f"{name} - {base}, seconds"] = added


def compiling(record: dict, work: Workload, network: tuple[str, float]) -> None:
    """torch.compile against eager: speed, seconds of compiling, and when they have paid."""
    images, (name, _) = work.images(), network
    eager = work.step(work.trainer(network, images), images)
    try:
        compiled = work.step(work.trainer(network, images, compile=True), images)
        start = time.perf_counter()
        with torch.compiler.config.patch(force_disable_caches=True):
            compiled()
        first = time.perf_counter() - start
    except Exception as error:  # no C++ compiler, an unsupported Python: each raises its own
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        record["compile"][name] = {"reason": reason[:200]}
        return
    entrants = {f"{name}, eager step": eager, f"{name}, compiled step": compiled}
    turns = take_turns(record, entrants, work.batch_size).values()
    record["results"][f"{name}, compiled / eager, images/s"] = judge(ratios(*turns))
    paid = break_even(first, *(median(seconds) for seconds in turns))
    record["compile"][name] = paid


def measure(rounds: int, work: Workload, imports: Mapping[str, str] = IMPORTS) -> dict:
    """Measure everything, with progress on stderr; the record follows `SCHEMA`.

    Raises:
        ValueError: for less than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    device = recipes.default_device()
    origin = records.provenance(device, 1, recipes.choose_precision("auto", device))
    record = {"format": 1, "provenance": origin, "rounds": rounds, "workload": asdict(work)}
    record |= {part: {} for part in ROWS}
    parts = [
        (multi_exit, work),
        (default_step, work, work.large, work.large_steps, 2),
        (default_step, work, work.small, work.small_steps, 3),
        (augmenting, work),
        (importing, imports),
        (compiling, work, work.small),
        (compiling, work, work.large),
    ]
    for number, (part, *arguments) in enumerate(parts, 1):
        print(f"{number}/{len(parts)} {part.__name__}", file=sys.stderr, flush=True)
        part(record, *arguments)
    return record


def run(options: argparse.Namespace) -> None:
    """Measure the speed of training on this machine, as ratios.

    Compared in turns, so that a busy machine slows both sides: a multi-exit TSKD step with a
    plain one; the default step with that of an ordinary script, in fp32 fed by a per-sample
    DataLoader; training with bare matrix products; augmenting with a step; importing with and
    without this library; and torch.compile with none. Takes about ten minutes on two cores. Prints
    a table; the file of --out gets every timing.
    """
    record = measure(options.rounds, Workload())
    print(table(record))
    write(record, options.out)
