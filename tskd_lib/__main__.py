"""Train, compare and use multi-exit students from the command line."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import inspect
import io
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from . import (
    anytime,
    bench,
    checkpoints,
    data,
    experiments,
    failures,
    files,
    losses,
    networks,
    records,
    report,
    voting,
)
from .arguments import (
    COUNT,
    POSITIVE,
    SEED,
    Parser,
    add_data,
    add_precision,
    add_training,
    number,
    output_file,
    output_folder,
    weight,
)
from .exits import build_student
from .losses import Objective
from .recipes import Recipe, default_device
from .training import evaluate

EXAMPLES = """examples:
  tskd compare --per-class 10                    five methods on the embedded digits
  tskd compare --dataset cifar100 --seeds 0 1 2  the same on CIFAR-100, three seeds
  tskd compare --dataset folder --data-root PHOTOS --image-size 64 --out runs/mine
  tskd predict runs/mine/seed-0/tskd.json cat.jpg dog.jpg --threshold 0.9
  tskd report runs/mine

Every command explains itself: tskd compare --help. An interrupted training goes on from the
last epoch that is on disk when the same command is given again."""
METHODS = """methods: baseline (labels alone), kd (labels and a teacher's soft targets), multi_exit
(labels, with an exit after every stage), byot (be your own teacher: the deepest exit teaches the
others too), tskd (like byot, with a teacher for every exit)"""
TEACHER = {"network": "resnet10", "width": 0.5}  # of `compare`, where nothing else is said
SHOW = {
    "accuracy": "{:.2%}".format,
    "top5": "{:.2%}".format,
    "nll": "{:.3f}".format,
    "ece": "{:.3f}".format,
    "parameters": "{:,}".format,
    "flops": lambda flops: f"{flops / 1e6:.1f} M",
}


def compare(options: argparse.Namespace) -> None:
    """Train a teacher, then several methods on the same batches, for each seed.

    The folder of --out gets teacher/teacher.json and, for each seed, a folder with a network
    (METHOD.json and its weights) and a record (METHOD.record.json) of every method. What is
    there already is not trained again. The table shows accuracy in percent on the test images.
    """
    objectives = {method: losses.PRESETS[method] for method in options.methods or losses.PRESETS}
    taught = any(objective.teacher for objective in objectives.values())
    refuse_idle_teacher(options, taught)
    train, test = load(options, options.image_size)
    few = {seed: students_images(options, train, seed) for seed in options.seeds or [0]}
    network = students_network(options)
    # a network that does not suit the images fails here, not after the teacher's training
    build_student(classes=len(train.classes), input_shape=train.shape, **network)
    teacher, found = options.teacher, []
    if taught and teacher is None:
        large = {"name": options.teacher_network or TEACHER["network"],
                 "width": options.teacher_width or TEACHER["width"],
                 "stem": options.stem}  # fmt: skip
        epochs = options.teacher_epochs or options.epochs
        found = run(options, "teacher", {"teacher": losses.PRESETS["baseline"]}, large, train,
                    test, experiments.TEACHER_SEED, epochs)  # fmt: skip
        teacher = options.out / "teacher" / "teacher.json"
    for seed, images in few.items():
        found += run(options, f"seed-{seed}", objectives, network, images, test, seed,
                     options.epochs, teacher)  # fmt: skip
    print(records.markdown(records.summary(records.frame(found))))


def train(options: argparse.Namespace) -> None:
    """Train one network with one method.

    The folder of --out gets the network (METHOD.json and its weights) and its record
    (METHOD.record.json). The methods kd and tskd need a --teacher: a network that this command
    has trained before.
    """
    objective = dataclasses.replace(losses.PRESETS[options.method], **dict(options.weights))
    refuse_idle(options, objective)
    train, test = load(options, options.image_size)
    few, network = students_images(options, train, options.seed), students_network(options)
    found = run(options, "", {options.method: objective}, network, few, test, options.seed,
                options.epochs, options.teacher)  # fmt: skip
    print(records.markdown(records.summary(records.frame(found))))
    print(f"\nThe network is in {options.out / options.method}.json")


def refuse_idle(options: argparse.Namespace, objective: losses.Objective) -> None:
    """Refuse an objective that learns nothing, and options that would not change what it learns."""
    method, given = options.method, [name for name, _ in options.weights]
    terms, shallow = ["label_deepest", "teacher"], ["label", "self_", "feature"]
    if objective.exits != "deepest":
        terms += shallow
    elif idle := [name for name in given if name in shallow]:
        raise ValueError(
            f"{method} has one exit, on which {' and '.join(idle)} would have no effect; "
            "the weight of its labels is label_deepest"
        )
    learnt = [name for name in terms if getattr(objective, name)]
    if not learnt:
        raise ValueError(f"every weight of {method} is zero: nothing to learn from")
    if "temperature" in given and not {"teacher", "self_"} & set(learnt):
        raise ValueError(f"{method} has no soft targets that a temperature would change")
    if "smoothing" in given and not {"label", "label_deepest"} & set(learnt):
        raise ValueError(f"{method} has no labels that smoothing would change")
    if objective.teacher and options.teacher is None:
        raise ValueError(f"{method} learns from a teacher: give --teacher NETWORK.json")
    if options.teacher and not objective.teacher:
        raise ValueError(f"{method} does not learn from a teacher: leave out --teacher")


def refuse_idle_teacher(options: argparse.Namespace, taught: bool) -> None:
    """Refuse a teacher that no method learns from, and options of one that is not trained here."""
    named = ["--teacher"] if options.teacher else []
    made = [f"--teacher-{name}" for name in ("network", "width", "epochs")
            if getattr(options, f"teacher_{name}") is not None]  # fmt: skip
    if not taught and (idle := named + made):
        raise ValueError(f"no method here has a teacher: leave out {', '.join(idle)}")
    if named and made:
        raise ValueError(f"that teacher is trained already: leave out {', '.join(made)}")


def load(options: argparse.Namespace, image_size: int | None) -> tuple[data.Images, data.Images]:
    """The data set of the options; a data root that it would not use is refused."""
    if options.data_root and options.dataset == "digits":
        raise ValueError(
            "the digits are embedded and have no --data-root: give --dataset too, "
            "for example --dataset folder"
        )
    if options.dataset == "folder" and not options.data_root:
        raise ValueError("a folder of images needs --data-root, where its class folders are")
    return data.load(options.dataset, options.data_root or "data", image_size)


def students_images(options: argparse.Namespace, train: data.Images, seed: int) -> data.Images:
    """The images that the students of a seed are trained on: all, or so many a class."""
    if options.per_class is not None:
        drawn_by = seed if options.subset_seed is None else options.subset_seed
        return data.per_class(train, options.per_class, drawn_by)
    if options.subset_seed is not None:
        raise ValueError("--subset-seed draws the images of --per-class: give that too")
    return train


def students_network(options: argparse.Namespace) -> dict:
    """The arguments of `build_student` that the options give."""
    chosen = {key: getattr(options, key) for key in ("width", "stem", "strength")}
    return {"name": options.network, **chosen}


def run(
    options: argparse.Namespace,
    folder: str,
    objectives: Mapping[str, Objective],
    network: dict,
    train: data.Images,
    test: data.Images,
    seed: int,
    epochs: int,
    teacher: Path | None = None,
) -> list[dict]:
    """One call of `experiments.run` with the recipe of the options.

    Where no batch size is given, an epoch has four steps or more, unless a batch would have less
    than 16 images: else students of few images would hardly learn in the usual number of epochs.
    """
    augment = data.default_augment(train)
    if options.no_flip:
        augment = dataclasses.replace(augment, flip=False)
    recipe = Recipe(
        epochs=epochs,
        batch_size=options.batch_size or max(16, min(Recipe.batch_size, len(train) // 4)),
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        schedule=options.schedule,
        clip=options.clip,
        augment=augment,
        precision=options.precision,
        compile=options.compile,
        seed=seed,
    )
    name = options.out.resolve().name
    place = options.out / folder
    return experiments.run(place, name, objectives, network, train, test, recipe, teacher)


def evaluate_network(options: argparse.Namespace) -> None:
    """Accuracy, calibration and cost of a trained network on the test images.

    A row for each exit and each vote of the exits. The images are those of the data set that the
    network was trained on; for a folder give the data root. Of a folder that is not divided into
    train and test only the quarter is used that training sets aside.
    """
    network, about = checkpoints.load_network(options.checkpoint)
    _, height, width = network.backbone.input_shape
    size = options.image_size or (height if height == width else None)
    options.dataset = options.dataset or about["dataset"]
    _, test = load(options, size)
    if list(test.classes) != about["classes"] or test.shape != network.backbone.input_shape:
        raise data.DataError(
            f"{options.checkpoint} was trained on {len(about['classes'])} classes of images "
            f"{network.backbone.input_shape}, {test.name} has {len(test.classes)} of "
            f"{test.shape}; choose the data set that it was trained on"
        )
    record = options.checkpoint.with_suffix(records.SUFFIX)
    if record.exists() and records.read(record)["data"]["test sha256"] != test.checksum():
        print(f"tskd: these are not the test images of {record}", file=sys.stderr)
    test = checkpoints.as_trained(test, about)
    results = evaluate(network.to(default_device()), test, options.precision)
    if options.json:
        print(json.dumps(results, indent=1))
        return
    table = records.answers(results, network.parameter_counts(), network.flops())
    for column, show in SHOW.items():
        table[column] = table[column].map(show)
    print(records.markdown(table))
    print(f"\nSome exit is right on {100 * results['oracle']:.2f} % of {len(test)} images.")


def predict_files(options: argparse.Namespace) -> None:
    """Classify image files: class, confidence, and the exit that answered.

    Images are resized to what the network was trained on. An image is answered at the first
    exit that is sure enough, and the stages after it are not computed.
    """
    network, about = checkpoints.load_network(options.checkpoint)
    network.to(default_device())
    channels, *size = network.backbone.input_shape
    rows = []
    for start in range(0, len(options.images), 256):
        paths = options.images[start : start + 256]
        pixels = data.to_tensor(files.read_images(paths, channels, tuple(size)))
        pixels = pixels.to(default_device())
        images = data.normalise(pixels, about["mean"], about["std"])
        answer = anytime.early_exit(network, images, options.threshold, options.vote)
        confidence, classes = answer.scores.max(1)
        for path, label, sure, exit in zip(paths, classes, confidence, answer.exits):
            row = {"file": str(path), "class": about["classes"][label]}
            rows.append({**row, "confidence": float(sure), "exit": int(exit) + 1})
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    table = [("file", "class", "confidence", "exit")]
    table += [(r["file"], r["class"], f"{r['confidence']:.1%}", f"{r['exit']}") for r in rows]
    file, label, sure, _ = (max(map(len, column)) for column in zip(*table))
    for row in table:
        print(f"{row[0]:{file}}  {row[1]:{label}}  {row[2]:>{sure}}  {row[3]:>4}")


def report_folder(options: argparse.Namespace) -> None:
    """The tables of a folder of records as Markdown, and with --out also as CSV.

    For each experiment, and in it for each number of images that its students saw: accuracy in
    percent of every method at every exit and vote, as mean and standard deviation where there are
    several seeds, and what the methods cost. Where methods share seeds with kd, byot or multi_exit,
    tables of their paired differences follow, in points, with 95 % intervals. --out gets all of
    them as report.md, each as a CSV of its own, and all measures of all runs as report.csv.
    """
    results = records.frame(records.read_all(options.folder))
    found = report.tables(results)
    text = report.report(found)
    print(text, end="")
    if options.out:
        texts = {"report.md": text, "report.csv": results.to_csv(index=False)}
        for title, tables in found.items():
            for kind, table in tables.items():
                name = re.sub(r"[^\w=.-]+", "-", f"{title} {kind}".replace(",", ""))
                texts[f"{name}.csv"] = table.to_csv()
        for name, content in texts.items():
            checkpoints.write_atomically(options.out / name, content.encode())


def make_parser() -> argparse.ArgumentParser:
    """The parser with all its commands."""
    parser = Parser(
        prog="tskd",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, function, *groups):
        doc = inspect.cleandoc(function.__doc__)
        one = commands.add_parser(name, help=doc.splitlines()[0], description=doc,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        for add in groups:
            add(one)
        one.set_defaults(run=function)
        return one

    one = command("train", train, add_data, add_training, add_precision)
    one.epilog = METHODS
    one.add_argument("--method", choices=losses.PRESETS, default="baseline",
                     help="how to train (%(default)s)")  # fmt: skip
    one.add_argument("--weights", nargs="+", action="extend", type=weight, default=[],
                     metavar="NAME=NUMBER",
                     help="change the method, for example self_=0.5 temperature=2")  # fmt: skip
    one.add_argument("--seed", type=SEED, default=0, metavar="SEED",
                     help="of weights and batches (%(default)s)")  # fmt: skip
    one.add_argument("--out", type=output_folder, default="runs/train", metavar="DIR",
                     help="where network and record go (%(default)s)")  # fmt: skip

    one = command("compare", compare, add_data, add_training, add_precision)
    one.epilog = METHODS
    one.add_argument("--methods", nargs="+", action="extend", choices=losses.PRESETS,
                     help="what to compare (all)")  # fmt: skip
    one.add_argument("--seeds", nargs="+", action="extend", type=SEED, metavar="SEED",
                     help="one run of every method for each (0)")  # fmt: skip
    one.add_argument("--teacher-network", choices=networks.names(), metavar="NAME",
                     help=f"where no --teacher is given ({TEACHER['network']})")  # fmt: skip
    one.add_argument("--teacher-width", type=POSITIVE, metavar="FACTOR",
                     help=f"multiplies its channels ({TEACHER['width']})")  # fmt: skip
    one.add_argument("--teacher-epochs", type=COUNT, metavar="N",
                     help="its passes over all the images (as many as the students')")  # fmt: skip
    one.add_argument("--out", type=output_folder, default="runs/compare", metavar="DIR",
                     help="where everything goes (%(default)s)")  # fmt: skip

    add_its_data = functools.partial(add_data, usual=None)
    one = command("evaluate", evaluate_network, add_its_data, add_precision)
    one.add_argument("checkpoint", type=Path, help="the .json file of a trained network")
    one.add_argument("--json", action="store_true", help="print JSON")

    one = command("predict", predict_files)
    one.add_argument("checkpoint", type=Path, help="the .json file of a trained network")
    one.add_argument("images", nargs="+", type=Path, help="image files")
    one.add_argument("--threshold", type=number(float, 0, 2), default=0.9, metavar="SHARE",
                     help="confidence at which exits answer (%(default)s; 2: deepest)")  # fmt: skip
    one.add_argument("--vote", choices=voting.RULES, help="let the exits reached vote (no)")
    one.add_argument("--json", action="store_true", help="print JSON")

    one = command("bench", bench.run)
    one.add_argument("--rounds", type=COUNT, default=5, metavar="N",
                     help="timings of each (%(default)s)")  # fmt: skip
    one.add_argument("--out", type=output_file, default="runs/bench.json", metavar="FILE",
                     help="(%(default)s)")  # fmt: skip

    one = command("report", report_folder)
    one.add_argument("folder", type=Path, nargs="?", default=records.COMMITTED,
                     help="where the records are (those of the book)")  # fmt: skip
    one.add_argument("--out", type=output_folder, metavar="DIR",
                     help="write report.md and the CSV files here")  # fmt: skip
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 2 where something is wrong with what was asked for."""
    options = make_parser().parse_args(arguments)
    first = os.environ.get("RANK", "0") == "0"  # of several processes
    try:
        with contextlib.nullcontext() if first else contextlib.redirect_stdout(io.StringIO()):
            options.run(options)
            print(end="", flush=True)  # not sys.stdout.flush(): a closed output is None
    except KeyboardInterrupt:
        message = "interrupted" + failures.GOES_ON * (options.command in ("train", "compare"))
        print(f"tskd: {message}", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, OSError):
            try:
                print(end="", flush=True)
            except OSError:  # the output cannot be written: keep Python from trying once more
                sys.stdout = None
        message = failures.sentence(error, options.command)
        if message is None:
            raise
    else:
        return 0
    print(f"tskd: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
