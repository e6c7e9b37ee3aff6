"""How to train: the recipe, its learning rate, and the device and precision that carry it out."""

from __future__ import annotations

import ctypes
import math
import operator
import os
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from .data import Augment
from .exits import MultiExitNet

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SCHEDULES = ("one-cycle", "cosine")


@dataclass(frozen=True)
class Recipe:
    """How to train: SGD with Nesterov momentum, and what goes with it.

    Attributes:
        epochs: passes over the data.
        batch_size: images in a step, over all processes. Batch norm sees those of one process.
        learning_rate: its peak.
        momentum: of SGD (Nesterov).
        weight_decay: on convolution and linear weights; biases and norms have none.
        schedule: "one-cycle" rises over the first quarter, then falls to 0 on a cosine (after
            Smith and Topin 2018); "cosine" only falls (Loshchilov and Hutter 2017).
        clip: largest norm of the gradient; None for no limit.
        augment: crops, flips and erasing; None for none.
        precision: "fp32", "bf16", "fp16", or "auto": bf16 on NVIDIA cards and on CPUs that are
            faster in it (AMX, or AMD's AVX512-BF16), fp16 on older NVIDIA cards, else fp32.
        compile: use torch.compile; pays on long runs only.
        seed: of shuffling, augmentation and dropout, and in `experiments.run` of the weights.

    Raises:
        ValueError: for a value that makes no sense.
    """

    epochs: int = 30
    batch_size: int = 256
    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "one-cycle"
    clip: float | None = None
    augment: Augment | None = field(default_factory=Augment)
    precision: str = "auto"
    compile: bool = False
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "batch_size", "seed"):
            try:
                object.__setattr__(self, name, operator.index(getattr(self, name)))
            except TypeError:
                given = getattr(self, name)
                raise ValueError(f"{name} must be a whole number, got {given}") from None
        for name in ("learning_rate", "momentum", "weight_decay", "clip"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("epochs", "batch_size", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("momentum", "weight_decay", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, got {self.momentum}")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"clip must be positive and finite, got {self.clip}")
        _check_known("schedule", self.schedule, SCHEDULES)
        _check_known("precision", self.precision, PRECISIONS)


def _check_known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; known are {known}")


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of step 0 to `steps - 1`."""
    warm_up = 0.25 * steps if recipe.schedule == "one-cycle" else 0.0
    if step < warm_up:
        return recipe.learning_rate * (step + 1) / (warm_up + 1)
    return (
        recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))
    )


def choose_precision(precision: str, device: torch.device) -> str:
    """The precision that "auto" stands for on this device; any other as it is.

    Raises:
        ValueError: for an unknown one, and for fp16 on a CPU, which trains in it no faster.
    """
    _check_known("precision", precision, PRECISIONS)
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("fp16 is for GPUs: on a CPU take the precision bf16, fp32 or auto")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _fast_in_bf16() else "fp32"


def _fast_in_bf16() -> bool:
    """Whether this CPU is faster in bf16 than in fp32: with AMX, or with AVX512-BF16 alone.

    Intel's CPUs with AMX have AVX512-BF16 as well, but multiply in it only half as fast as in fp32.
    Where a virtual machine hides AMX, they are known by AVX512-FP16, which those of AMD lack.
    """
    has = getattr(torch.cpu, "get_capabilities", dict)()  # older versions do not say
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and not has.get("avx512_fp16")))


def this_process() -> PartialState:
    """Accelerate's view of this process: its device, and its place among others.

    Of several processes (`torchrun`) each gets a CUDA device of its own.
    Without CUDA they share the CPU, because PyTorch cannot distribute over Apple's GPU.
    """
    from accelerate.state import PartialState
    from accelerate.utils import parse_flag_from_env

    # accelerate distributes over CPUs only when told so; else every process would train alone
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.cuda.is_available()
    return PartialState(cpu=several or parse_flag_from_env("ACCELERATE_USE_CPU"))


def default_device() -> torch.device:
    """Where training runs: the GPU of this process (CUDA or Apple's), else the CPU."""
    return this_process().device


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; a CPU works while it is called."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def make_accelerator(precision: str) -> Accelerator:
    """`this_process` with a precision, which prepares models and optimisers."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    mixed = choose_precision(precision, default_device())
    AcceleratorState._reset_state()  # else the first precision of a process is its last
    return Accelerator(mixed_precision="no" if mixed == "fp32" else mixed)


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for its next ones, where it has glibc.

    By default glibc returns large blocks to the system and fetches them anew in every step, page
    by page, which takes up to a fifth of a training on a CPU (`M_MMAP_MAX` and
    `M_TRIM_THRESHOLD` in the manual page of mallopt).
    """
    if platform.libc_ver()[0] == "glibc":
        mmap_max, trim_threshold = -4, -1
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


def make_optimizer(network: MultiExitNet, recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum; weight decay on matrices and kernels only.

    The momentum is there from the start, at zero: a first step that fp16 skips would leave it
    undefined.
    """
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        groups, recipe.learning_rate, recipe.momentum, nesterov=recipe.momentum > 0, fused=True
    )
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
