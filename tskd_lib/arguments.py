"""What the commands accept: shared options, and converters that refuse what makes no sense."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from . import data, networks
from .exits import STRENGTHS
from .losses import Objective
from .recipes import PRECISIONS, SCHEDULES, Recipe


def number(
    kind: type, low: float, high: float = 2**32 - 1, above: bool = False
) -> Callable[[str], float]:
    """A converter for argparse: a number from `low`, or above it, up to `high`."""
    start = f"above {low} and at most" if above else f"from {low} to"
    what = f"a {'whole ' if kind is int else ''}number {start} {high}"

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or (above and value == low):
            raise argparse.ArgumentTypeError(f"{text!r} should be {what}")
        return value

    return convert


def weight(text: str) -> tuple[str, float]:
    """A converter for argparse: NAME=NUMBER, a weight of `Objective` by name."""
    known = [field.name for field in dataclasses.fields(Objective) if field.name != "exits"]
    name, _, value = text.partition("=")
    if name not in known:
        raise argparse.ArgumentTypeError(f"unknown weight {name!r}; known are {', '.join(known)}")
    return name, NOT_NEGATIVE(value)


def output_folder(text: str) -> Path:
    """A converter for argparse: a folder that can be written to, or made."""
    path = Path(os.path.expanduser(text))
    try:
        there = next((p for p in (path, *path.absolute().parents) if os.path.exists(p)), None)
    except FileNotFoundError:
        raise argparse.ArgumentTypeError("this folder was removed; change to another") from None
    if there is None:
        raise argparse.ArgumentTypeError(f"{path} cannot be made; give another folder")
    if not os.path.isdir(there):
        raise argparse.ArgumentTypeError(f"{there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{there} may not be written to; give another folder")
    return path


def output_file(text: str) -> Path:
    """A converter for argparse: a file in a folder that can be written to, or made."""
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file")
    output_folder(os.path.dirname(path))
    return path


POSITIVE, COUNT = number(float, 0, above=True), number(int, 1)
SEED, NOT_NEGATIVE = number(int, 0), number(float, 0)


def add_data(parser: argparse.ArgumentParser, usual: str | None = "digits") -> None:
    """Options that choose the images; where none is usual, those that a network was trained on."""
    group = parser.add_argument_group("images")
    group.add_argument(
        "--dataset", default=usual, metavar="NAME",
        help=f"{', '.join(data.NAMES)} ({usual or 'that of its training'})",
    )  # fmt: skip
    group.add_argument(
        "--data-root", type=Path, metavar="DIR",
        help="where downloads are kept (data); for a folder, that of the class folders, or of the "
        "folders train and test that hold them",
    )  # fmt: skip
    group.add_argument(
        "--image-size", type=number(int, 1, 2**14), metavar="PIXELS",
        help="resize to this height and width; needed for a folder of mixed sizes",
    )  # fmt: skip


def add_training(parser: argparse.ArgumentParser) -> None:
    """Options of networks and training."""
    group = parser.add_argument_group("network")
    group.add_argument("--network", choices=networks.names(), default="resnet10", metavar="NAME",
                       help=", ".join(networks.names()) + " (%(default)s)")  # fmt: skip
    group.add_argument("--width", type=POSITIVE, default=0.25, metavar="FACTOR",
                       help="multiplies the channels (%(default)s)")  # fmt: skip
    group.add_argument("--stem", choices=networks.STEMS, default="cifar",
                       help="for small or for large images (%(default)s)")  # fmt: skip
    group.add_argument("--strength", choices=STRENGTHS, default="byot",
                       help="size of the exit branches (%(default)s)")  # fmt: skip
    group = parser.add_argument_group("training")
    group.add_argument("--teacher", type=Path, metavar="JSON",
                       help="a trained network; the .json file of its checkpoint")  # fmt: skip
    group.add_argument("--per-class", type=COUNT, metavar="N",
                       help="students see N images a class (all)")  # fmt: skip
    group.add_argument("--subset-seed", type=SEED, metavar="SEED",
                       help="draws those images (the seed of each run)")  # fmt: skip
    recipe = Recipe()
    group.add_argument("--epochs", type=COUNT, default=recipe.epochs, metavar="N",
                       help="passes over the images (%(default)s)")  # fmt: skip
    group.add_argument("--batch-size", type=COUNT, metavar="N",
                       help="images in a step, over all processes "
                            f"({recipe.batch_size}, of few images a quarter)")  # fmt: skip
    group.add_argument("--learning-rate", type=POSITIVE, default=recipe.learning_rate,
                       metavar="RATE", help="its peak (%(default)s)")  # fmt: skip
    group.add_argument("--weight-decay", type=NOT_NEGATIVE, default=recipe.weight_decay,
                       metavar="RATE", help="pull of weights to zero (%(default)s)")  # fmt: skip
    group.add_argument("--schedule", choices=SCHEDULES, default=recipe.schedule,
                       help="of the learning rate (%(default)s)")  # fmt: skip
    group.add_argument("--clip", type=POSITIVE, metavar="NORM",
                       help="largest norm of the gradient (no limit)")  # fmt: skip
    group.add_argument("--no-flip", action="store_true",
                       help="mirror no training images, as for letters or signs")  # fmt: skip
    group.add_argument("--compile", action="store_true",
                       help="use torch.compile, which pays on long runs only")  # fmt: skip


def add_precision(parser: argparse.ArgumentParser) -> None:
    """The option of numerical precision."""
    parser.add_argument("--precision", choices=PRECISIONS, default="auto",
                        help="auto: bf16 on NVIDIA cards and on CPUs that are faster in it, "
                        "fp16 on older NVIDIA cards, else fp32")  # fmt: skip


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        self.exit(2, f"tskd: {' '.join(message.split())}; see {self.prog} --help\n")
