"""CIFAR-100 with 10 and with 50 images of each class, for the curves over the number of images.

    python scripts/record_shots.py FOLDER

Trains the five methods with three seeds each, longer where images are fewer; all students have the
teacher of the study with 100. FOLDER gets networks and records, and can be given again after an
interruption; the records are then copied to tskd_lib/runs. It takes an hour on two cores.
"""

import sys
from dataclasses import replace
from pathlib import Path

from record_study import command, keep, variant

from tskd_lib import study
from tskd_lib.losses import PRESETS

EPOCHS, SEEDS = {10: 150, 50: 45}, range(3)


def fewer(few: study.Study, images: int, folder: Path, name: str) -> study.Study:
    """The problem with so many images of each class, and the epochs that go with them."""
    recipe = replace(few.student_recipe, epochs=EPOCHS[images])
    return variant(few, folder / name, name=name, shots=images, student_recipe=recipe)


def main(folder: Path) -> None:
    """Train what is not in the folder yet; keep all at the end, so that git stays clean."""
    few = study.load("full")
    parts = [fewer(few, images, folder, f"cifar100-{images}") for images in EPOCHS]
    for part in parts:
        part.run(PRESETS, SEEDS)
    for part in parts:
        keep(part.folder, part.test, analysed=(), networks=())


if __name__ == "__main__":
    command(main, sys.argv[1:])
