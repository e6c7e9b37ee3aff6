"""Images in memory as one uint8 tensor, splits, per-class subsets, and augmented batches.

Small images fit in memory whole. Kept there as `uint8 [N, C, H, W]`, a batch is one indexing
operation, and cropping and flipping are index arithmetic on whole batches.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import files
from .files import DataError

NAMES = ("digits", *files.TORCHVISION, "folder")
# folders of a divided data set, in any case; of several the first one is taken
TRAINING = ("train", "training", "train_set", "training_set")
HELD_OUT = ("test", "testing", "test_set", "val", "valid", "validation", "dev", "eval")


@dataclass(frozen=True, repr=False, eq=False)
class Images:
    """Labelled images in memory.

    Attributes:
        name: the data set.
        images: uint8 `[N, C, H, W]`.
        labels: int64 `[N]`, from 0 to `len(classes) - 1`.
        classes: the classes' names.
        mean: per channel, on the scale 0 to 1, for normalisation.
        std: likewise.

    Raises:
        DataError: where shapes, types or labels do not fit together.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        plain = {"classes": str, "mean": float, "std": float}  # as checkpoints keep them
        for field, kind in plain.items():
            object.__setattr__(self, field, tuple(map(kind, getattr(self, field))))
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(f"{self.name}: images must be uint8 [N, C, H, W]")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(f"{self.name}: labels must be int64, one for each image")
        if len(self) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(
                f"{self.name}: labels go from {self.labels.min()} to {self.labels.max()}, "
                f"but {len(self.classes)} classes need 0 to {len(self.classes) - 1}"
            )
        if not len(self.mean) == len(self.std) == self.images.shape[1]:
            raise DataError(f"{self.name}: mean and std need one value for each channel")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"Images({self.name}: {len(self)} of {size}, {len(self.classes)} classes)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return tuple(self.images.shape[1:])

    def subset(self, indices: Tensor | Sequence[int]) -> Images:
        """The images at these positions, in this order, or those where a mask is true."""
        indices = torch.as_tensor(indices)
        if indices.dtype != torch.bool:
            indices = indices.to(torch.int64)  # also what an empty list gives
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device | str) -> Images:
        """The same images on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def checksum(self) -> str:
        """SHA-256 of sizes, pixels and labels, hexadecimal."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for values in (self.images, self.labels):
            digest.update(values.cpu().contiguous().numpy())
        return digest.hexdigest()


def memory_format(device: torch.device) -> torch.memory_format:
    """How images lie in memory: channels last, which is faster, but not on Apple's GPU.

    There the gradients of batch norm were wrong for it (issue 175189 of pytorch/pytorch).
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels to mean 0 and deviation 1 in each channel, in the `memory_format` of the device.

    Args:
        images: `[B, C, H, W]`, from 0 to 255.
        mean: of each channel, on the scale 0 to 1.
        std: likewise.

    Returns:
        float32 `[B, C, H, W]`.
    """
    shift = 255 * images.new_tensor(mean, dtype=torch.float32)
    scale = 255 * images.new_tensor(std, dtype=torch.float32)
    memory = memory_format(images.device)
    images = images.to(torch.float32, copy=True, memory_format=memory)
    return images.sub_(shift.view(-1, 1, 1)).div_(scale.view(-1, 1, 1))


def to_tensor(pixels: np.ndarray | Tensor) -> Tensor:
    """uint8 `[N, H, W]` or `[N, H, W, C]` to `[N, C, H, W]`."""
    pixels = torch.as_tensor(pixels)
    return (pixels[:, None] if pixels.ndim == 3 else pixels.movedim(-1, 1)).contiguous()


def from_arrays(
    name: str,
    images: np.ndarray | Tensor,
    labels: Sequence[int] | np.ndarray | Tensor,
    classes: Sequence[str],
    image_size: int | None = None,
) -> Images:
    """`Images` from uint8 `[N, H, W]` or `[N, H, W, C]`, with its own mean and deviation.

    Args:
        name: for messages and records.
        images: pixels, 0 to 255.
        labels: for each image the place of its class in `classes`.
        classes: names of the classes.
        image_size: where given, images are resized to this height and width (antialiased).

    Raises:
        DataError: where shapes, types or labels do not fit together.
    """
    try:
        pixels, labels = (
            torch.as_tensor(values if torch.is_tensor(values) else np.ascontiguousarray(values))
            for values in (images, labels)
        )
    except (TypeError, ValueError):  # words, lists of different lengths
        raise DataError(f"{name}: images and labels must be arrays of numbers") from None
    if pixels.dtype != torch.uint8 or pixels.ndim not in (3, 4):
        raise DataError(f"{name}: images must be uint8 [N, H, W] or [N, H, W, C]")
    if len(labels) and (labels.is_floating_point() or labels.dtype == torch.bool):
        raise DataError(f"{name}: labels must be whole numbers, got {labels.dtype}")
    pixels, labels = to_tensor(pixels), labels.to(torch.int64)
    if image_size and pixels.shape[2:] != (image_size, image_size):
        size = (image_size, image_size)
        resized = [
            F.interpolate(part.float(), size, mode="bilinear", antialias=True).round().byte()
            for part in pixels.split(1000)
        ]
        pixels = torch.cat(resized)
    counts = [torch.bincount(c.flatten(), minlength=256).cpu() for c in pixels.unbind(1)]
    counts = torch.stack(counts)
    share = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ values
    std = (share @ values**2 - mean**2).clamp(min=0).sqrt().clamp(min=1 / 255)
    return Images(name, pixels, labels, tuple(classes), tuple(mean.tolist()), tuple(std.tolist()))


def load(
    name: str,
    root: str | os.PathLike = "data",
    image_size: int | None = None,
    download: bool = True,
    seed: int = 0,
) -> tuple[Images, Images]:
    """The training and the test images of a data set.

    Both are normalised with the statistics of the training images. Where there is no official
    test part (digits, a folder that is not divided into one of `TRAINING` and one of `HELD_OUT`), a
    quarter of each class is set aside for the test, and the statistics are those of all images.

    Args:
        name: "digits" (embedded in scikit-learn), "cifar10", "cifar100", "fashion-mnist"
            (downloaded by torchvision, MD5-checked) or "folder" (class folders of images).
        root: where downloads are kept, or the folder itself.
        image_size: resize to this height and width; needed for folders of mixed sizes. The
            digits' 8 x 8 pixels become 16 x 16 where nothing else is said: room for four stages.
        download: fetch what is missing.
        seed: for the split, where there is no official one.

    Raises:
        DataError: for an unknown name, and data that are missing or unreadable.
    """
    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}; known are {', '.join(NAMES)}")
    if image_size is not None and image_size < 1:
        raise DataError(f"the image size must be at least 1, got {image_size}")
    root = Path(os.path.expanduser(root))  # leaves the ~ of an unknown user as it is
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        pixels = (digits.images * (255 / 16)).round().astype(np.uint8)
        classes = [str(digit) for digit in digits.target_names]
        parts = from_arrays(name, pixels, digits.target, classes, image_size or 16)
        parts = split(parts, (0.75, 0.25), seed)
    elif name == "folder":
        parts = _load_folder(root, image_size, seed)
    else:
        sets = files.torchvision_sets(name, root, download)
        parts = [from_arrays(name, s.data, s.targets, s.classes, image_size) for s in sets]
    train, test = parts
    return train, replace(test, mean=train.mean, std=train.std)


def _load_folder(root: Path, image_size: int | None, seed: int):
    found = {path.name.lower(): path for path in files.folders(root)}
    train, test = (next((found[n] for n in names if n in found), None)
                   for names in (TRAINING, HELD_OUT))  # fmt: skip
    if train and test:
        parts = [read_folder(part, image_size) for part in (train, test)]
        if parts[0].classes != parts[1].classes:
            raise DataError(f"{train} and {test} do not have the same class folders")
        if parts[0].shape != parts[1].shape:
            raise DataError(f"{train} and {test} differ in image size; give an image size")
        return parts
    part = train or test
    if part and files.folders(part):  # else it may be a class of that name
        missing = HELD_OUT if train else TRAINING
        raise DataError(
            f"{root} has folders in {part.name}, but no folder {' or '.join(missing)} beside it; "
            f"rename one, or give {part}"
        )
    return split(read_folder(root, image_size), (0.75, 0.25), seed)


def read_folder(root: Path, image_size: int | None = None) -> Images:
    """A tree with one folder of image files for each class, RGB; see `files.labelled_files`.

    Raises:
        DataError: where there are not two classes with images, or something cannot be read.
    """
    found = files.labelled_files(root)
    labels = [label for label, paths in enumerate(found.values()) for _ in paths]
    size = (image_size, image_size) if image_size else None
    pixels = files.read_images([path for paths in found.values() for path in paths], 3, size)
    return from_arrays("folder", pixels, labels, list(found))


def split(data: Images, shares: Sequence[float], seed: int) -> list[Images]:
    """Disjoint parts that hold these shares of every class, drawn by seed.

    Args:
        data: the images to divide.
        shares: of each part, positive, at most 1 in all.
        seed: the same seed gives the same parts.

    Raises:
        DataError: where the shares are off, or a class is too small for every part.
    """
    if not shares or not min(shares) > 0 or not sum(shares) <= 1 + 1e-9:
        raise DataError(f"shares must be positive and sum to at most 1, got {tuple(shares)}")
    parts: list[list[Tensor]] = [[] for _ in shares]
    for members in _shuffled_classes(data, seed):
        ends = (np.cumsum(shares) * len(members)).round().astype(int)
        for part, start, end in zip(parts, [0, *ends], ends):
            if start == end:
                raise DataError(
                    f"{data.name}: {len(members)} images of a class are too few for {shares}"
                )
            part.append(members[start:end])
    return [data.subset(torch.cat(part).sort().values) for part in parts]


def per_class(data: Images, count: int, seed: int) -> Images:
    """`count` images of every class, drawn by seed; a larger count holds the smaller one's.

    Raises:
        DataError: where a class has fewer images, or the count is below 1.
    """
    fewest = int(torch.bincount(data.labels, minlength=len(data.classes)).min())
    if not 1 <= count <= fewest:
        raise DataError(f"{data.name} has {fewest} to take from each class, {count} asked for")
    chosen = [members[:count] for members in _shuffled_classes(data, seed)]
    return data.subset(torch.cat(chosen).sort().values)


def _shuffled_classes(data: Images, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for label in range(len(data.classes)):
        members = (data.labels == label).nonzero().flatten().cpu()
        yield members[torch.randperm(len(members), generator=generator)]


@dataclass(frozen=True)
class Augment:
    """Random crops, flips and erased squares for a whole batch at once.

    Every draw comes from one generator on the CPU, so a seed gives the same images on every
    device.

    Attributes:
        pad: images are padded by this many zero pixels and cropped back at random.
        flip: mirror half of the images; wrong for digits and letters.
        erase: side of a square set to zero in every image (DeVries and Taylor 2017), 0 for none.

    Raises:
        ValueError: for a negative number of pixels.
    """

    pad: int = 4
    flip: bool = True
    erase: int = 0

    def __post_init__(self):
        if min(self.pad, self.erase) < 0:
            raise ValueError(f"pad and erase must not be negative, got {self.pad} and {self.erase}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 `[B, C, H, W]` to the same shape; the input is left alone."""
        count, _, height, width = images.shape
        device = images.device

        def draw(high: int) -> Tensor:
            return torch.randint(high, (count,), generator=generator).to(device)

        top, left = draw(2 * self.pad + 1), draw(2 * self.pad + 1)
        if self.flip:
            mirrored = draw(2).bool().view(-1, 1, 1, 1)
            images = torch.where(mirrored, images.flip(3), images)
        if self.pad:
            padded = F.pad(images, [self.pad] * 4)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)
            images = windows[torch.arange(count, device=device), :, top, left]
        if self.erase:
            rows = torch.arange(height, device=device) - draw(height)[:, None] + self.erase // 2
            columns = torch.arange(width, device=device) - draw(width)[:, None] + self.erase // 2
            row_hit = (rows >= 0) & (rows < self.erase)
            column_hit = (columns >= 0) & (columns < self.erase)
            hit = row_hit[:, None, :, None] & column_hit[:, None, None, :]
            images = images.masked_fill(hit, 0)
        return images


def default_augment(data: Images) -> Augment:
    """Crops by an eighth of the height, and flips, except for digits, which have a left side."""
    return Augment(pad=max(1, data.shape[1] // 8), flip=data.name != "digits")


def batches(
    data: Images,
    batch_size: int,
    generator: torch.Generator | None = None,
    augment: Augment | None = None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images `[B, C, H, W]` and labels `[B]`, once through the data.

    The batches are of nearly equal size, so the last is not too small for batch norm. Several
    processes share each batch: process `rank` of `world` gets every `world`-th image of it. All
    get equally many, so that each image counts the same; up to `world - 1` of a batch are left out.

    Args:
        data: the images, on the device where the batches are wanted.
        batch_size: at most this many images a batch, over all processes.
        generator: on the CPU; shuffles and augments. In order without one.
        augment: applied to each batch, where given.
        rank: which process this is, from 0.
        world: how many processes there are.
    """
    count = len(data)
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    for indices in order.tensor_split(max(1, -(-count // batch_size))):
        picked = indices.to(data.images.device)
        images = data.images[picked]
        if augment is not None:
            images = augment(images, generator)
        mine = slice(rank, len(indices) // world * world if world > 1 else None, world)
        yield normalise(images[mine], data.mean, data.std), data.labels[picked][mine]
