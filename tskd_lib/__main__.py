"""The command line: `tskd train | compare | evaluate | predict | bench | report`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import checkpoints, data, experiments, losses, networks, records
from .exits import STRENGTHS
from .training import PRECISIONS, Recipe, TrainingDiverged

TEACHER_SEED = 100


def compare(options) -> None:
    """Train a teacher, then every method on the same batches, for each seed."""
    train, test = read_data(options)
    objectives = {method: losses.PRESETS[method] for method in options.methods}
    teacher = None
    if any(objective.teacher for objective in objectives.values()):
        teacher = options.teacher or options.out / "teacher" / "teacher.json"
        if not teacher.exists() and not options.teacher:
            train_teacher(options, train, test)
    if options.per_class:
        students_train = data.per_class(train, options.per_class, options.subset_seed)
    else:
        students_train = train
    network = {
        "name": options.student,
        "width": options.student_width,
        "strength": options.strength,
        "stem": options.stem,
    }
    found = []
    for seed in options.seeds:
        found += experiments.run(
            options.out / f"seed-{seed}",
            options.out.name,
            objectives,
            network,
            students_train,
            test,
            make_recipe(options, train, options.epochs, seed),
            teacher,
        )
    print(records.markdown(records.summary(records.frame(found))))


def train_teacher(options, train: data.Images, test: data.Images) -> None:
    """Train the teacher of `compare` on all the training images."""
    experiments.run(
        options.out / "teacher",
        options.out.name,
        {"teacher": losses.PRESETS["baseline"]},
        {"name": options.teacher_network, "width": options.teacher_width, "stem": options.stem},
        train,
        test,
        make_recipe(options, train, options.teacher_epochs or options.epochs, TEACHER_SEED),
    )


def make_recipe(options, train: data.Images, epochs: int, seed: int) -> Recipe:
    """The recipe that the options describe."""
    return Recipe(
        epochs=epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        augment=data.default_augment(train),
        precision=options.precision,
        compile=options.compile,
        seed=seed,
    )


def read_data(options) -> tuple[data.Images, data.Images]:
    """The training and test images that the options name."""
    size = options.image_size or (16 if options.dataset == "digits" else None)
    return data.load(options.dataset, options.data_root, size)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Options that choose the images."""
    group = parser.add_argument_group("images")
    group.add_argument("--dataset", default="digits", help=", ".join(data.NAMES))
    group.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR")
    group.add_argument("--image-size", type=int, metavar="PIXELS", help="resize to this height")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Options that say how to train."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=int, default=30)
    group.add_argument("--batch-size", type=int, default=256)
    group.add_argument("--learning-rate", type=float, default=0.2, metavar="RATE")
    group.add_argument("--precision", choices=PRECISIONS, default="auto")
    group.add_argument("--compile", action="store_true", help="use torch.compile")


def make_parser() -> argparse.ArgumentParser:
    """The parser with all its commands."""
    parser = argparse.ArgumentParser(prog="tskd", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("compare", help="train several methods side by side")
    add_data(one)
    add_recipe(one)
    one.add_argument("--methods", nargs="+", default=list(losses.PRESETS), choices=losses.PRESETS)
    one.add_argument("--seeds", nargs="+", type=int, default=[0])
    one.add_argument("--per-class", type=int, metavar="N", help="students see N images a class")
    one.add_argument("--subset-seed", type=int, default=0, help="draws those images")
    one.add_argument("--out", type=Path, default=Path("runs/compare"), metavar="DIR")
    one.add_argument("--stem", choices=networks.STEMS, default="cifar")
    one.add_argument("--student", default="resnet10", metavar="NETWORK")
    one.add_argument("--student-width", type=float, default=0.25, metavar="FACTOR")
    one.add_argument("--strength", choices=STRENGTHS, default="byot", help="of the exit branches")
    one.add_argument("--teacher", type=Path, metavar="JSON", help="a teacher trained before")
    one.add_argument("--teacher-network", default="resnet10", metavar="NETWORK")
    one.add_argument("--teacher-width", type=float, default=0.5, metavar="FACTOR")
    one.add_argument("--teacher-epochs", type=int, help="default: as many as the students")
    one.set_defaults(run=compare)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 2 where something is wrong with what was asked for."""
    options = make_parser().parse_args(arguments)
    try:
        options.run(options)
    except (
        data.DataError,
        checkpoints.CheckpointError,
        records.RecordError,
        TrainingDiverged,
        ValueError,
        OSError,
    ) as error:
        print(f"tskd: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
