"""Pixels from files: data sets that torchvision downloads, folders of classes, single images."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

TORCHVISION = {
    # name: (class in torchvision.datasets, the folder that it keeps below the root)
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw"),
}
LOCK = ".download.lock"  # below the root, of the process that downloads
INCOMPLETE = RuntimeError, EOFError, OSError  # what torchvision raises for missing or wrong files
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


class DataError(Exception):
    """Images that are not there or cannot be used; the message says what to do."""


def torchvision_sets(name: str, root: Path, download: bool) -> list:
    """The training and the test part of one of `TORCHVISION`, as torchvision has them.

    Args:
        name: of the data set.
        root: where its files are or go.
        download: fetch what is missing. What is fetched is MD5-checked; CIFAR whenever it is read.

    Raises:
        DataError: for files that are missing, damaged or may not be read.
    """
    import torchvision

    kind, folder = TORCHVISION[name]
    make = getattr(torchvision.datasets, kind)

    def read() -> list:
        return [make(root, train=train) for train in (True, False)]

    try:
        return read()
    except PermissionError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror})") from None
    except INCOMPLETE:
        if not download:
            raise DataError(
                f"{name} is not complete in {root / folder}; allow the download"
            ) from None
    except Exception as error:  # unpickling damaged files raises almost anything
        raise DataError(f"{name} in {root / folder} is damaged ({error}); delete it") from None
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / LOCK):
            with contextlib.suppress(*INCOMPLETE):
                return read()  # another process has fetched it meanwhile
            _download(make, root, folder)
            return read()
    except Exception as error:  # offline, cut off, refused, full disk, a damaged archive
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{name} could not be downloaded ({reason}); expected its files in {root / folder}"
        ) from None


def _download(make, root: Path, folder: str) -> None:
    """Download beside the root, then move it there: an interruption leaves nothing half-made.

    What a killed process left is removed. Only one process at a time may be here.
    """
    for left in root.glob(".download-*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as scratch:
        for train in (True, False):
            make(scratch, train=train, download=True)
        target = root / folder
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(Path(scratch) / folder, target)


def read_images(paths: Sequence[Path], channels: int, size: tuple[int, int] | None) -> np.ndarray:
    """Image files as uint8 `[N, H, W, C]`; what is transparent shows white.

    Args:
        paths: the files, at least one.
        channels: 1 for grey, 3 for colour.
        size: (height, width) to resize to; None where all have the same size already.

    Raises:
        DataError: for a file that cannot be read, or sizes that differ where none is given.
    """
    from PIL import Image, ImageOps

    def read(path: Path) -> Image.Image:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an error says enough
            with Image.open(path) as file:
                if file.mode.startswith(("I", "F")):
                    raise ValueError("more than 8 bits a channel; convert it to 8 bits first")
                image = ImageOps.exif_transpose(file)  # as the camera was held
                if image.has_transparency_data:
                    image = image.convert("RGBA")
                    paper = Image.new("RGBA", image.size, "white")
                    image = Image.alpha_composite(paper, image)
                return image.convert("L" if channels == 1 else "RGB")

    pixels = []
    for path in paths:
        try:
            image = read(path)
        except Exception as error:  # decoding damaged files raises almost anything
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{path} cannot be read as an image ({reason})") from None
        if size:
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        pixels.append(np.asarray(image).reshape(image.height, image.width, channels))
        if pixels[-1].shape != pixels[0].shape:
            raise DataError(
                f"{path} is {image.width} x {image.height}, {paths[0]} is "
                f"{pixels[0].shape[1]} x {pixels[0].shape[0]}; give an image size to resize to"
            )
    return np.stack(pixels)


def labelled_files(root: Path) -> dict[str, list[Path]]:
    """The image files of each class in a tree with one folder for each.

    A class's files may lie in folders of any depth; what starts with a dot is passed over.

    Raises:
        DataError: where there are not two classes with images, or a folder cannot be read.
    """
    found = {folder.name: _image_files(folder, root) for folder in folders(root)}
    if len(found) < 2 or not all(found.values()):
        empty = next((str(root / name) for name, files in found.items() if not files), None)
        what = f"{empty} holds no image" if empty else f"found {len(found)} folders"
        raise DataError(f"{root} needs a folder of images for each of two or more classes: {what}")
    return found


def folders(root: Path) -> list[Path]:
    """The folders in a folder, in order of their names; what starts with a dot is passed over.

    Raises:
        DataError: where the folder cannot be read.
    """
    try:
        found = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    except OSError as error:
        raise _unreadable(error, root) from None
    return sorted(found, key=lambda path: path.name)  # paths of Windows would ignore case


def _image_files(folder: Path, root: Path) -> list[Path]:
    try:
        found = walk(folder)
    except OSError as error:
        raise _unreadable(error, root) from None
    return [path for path in found if path.suffix.lower() in SUFFIXES]


def _unreadable(error: OSError, root: Path) -> DataError:
    return DataError(
        f"{error.filename or root} cannot be read ({error.strerror}); expected a folder of "
        f"images for each class in {root}"
    )


def walk(folder: Path) -> list[Path]:
    """All files below a folder, in order of their paths; what starts with a dot is passed over.

    Raises:
        OSError: where a folder cannot be read.
    """

    def fail(error: OSError):
        raise error

    found = []
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found, key=lambda path: path.parts)
