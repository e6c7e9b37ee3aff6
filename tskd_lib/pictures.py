"""Pictures of images, of what a network says of them, and of the network itself.

As in `plots`, each function returns a Figure to be shown as the last line of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .data import Images
from .theme import LETTER, ORANGE, WIDTH, draw_cells, short, subplots
from .voting import check_logits, probabilities, vote


def image_grid(
    images: Images,
    indices: Sequence[int],
    captions: Sequence[str] | None = None,
    columns: int = 6,
) -> Figure:
    """Images side by side, pixel for pixel, with what they show below them.

    Args:
        images: where to take them from.
        indices: which, in this order.
        captions: one for each; the class names if None.
        columns: at most this many images in a row.

    Raises:
        ValueError: for no or unknown indices, or another number of captions.
    """
    indices = _positions(indices, len(images))
    if captions is None:
        captions = [images.classes[images.labels[i]] for i in indices]
    if len(captions) != len(indices) or columns < 1:
        raise ValueError(
            f"got {len(captions)} captions for {len(indices)} images and {columns=}: give one "
            "caption for each image, and at least one column"
        )
    columns = min(columns, len(indices))
    rows, cell = -(-len(indices) // columns), WIDTH / max(columns, 3)
    captions = [short(caption, int(72 * cell / LETTER), lines=2) for caption in captions]
    lines = 1 + max(caption.count("\n") for caption in captions)
    _, height, width = images.shape
    size = (WIDTH, rows * (cell * height / width + 0.2 * lines))
    figure, axes = subplots(rows, columns, size)
    for ax, i, caption in zip(axes.flat, indices, captions):
        _picture(ax, images.images[i])
        ax.set_xlabel(caption, size=11)
    for ax in axes.flat[len(indices) :]:
        ax.set_axis_off()
    return figure


def exit_opinions(
    images: Images,
    logits: Tensor,
    indices: Sequence[int],
    top: int = 4,
    rule: str = "probability",
) -> Figure:
    """A few images, and how probable each exit and the vote hold which classes.

    A row of cells is one exit, shallow to deep, then the vote, whose cells are its scores. The
    frame is around a row's answer. Shown are the `top` classes of the vote, the true class, and
    every answer.

    Args:
        images: the N images that were predicted.
        logits: `[K, N, C]`, from `training.predict`.
        indices: which images to show, in this order.
        top: how many classes to show at least.
        rule: of the vote, one of `voting.RULES`.

    Raises:
        ValueError: for no or unknown indices, or logits that do not belong to the images.
    """
    indices, logits = _positions(indices, len(images)), check_logits(logits).detach()
    if logits.shape[1:] != (len(images), len(images.classes)):
        raise ValueError(
            f"got logits of shape {tuple(logits.shape)} for {len(images)} images of "
            f"{len(images.classes)} classes: give [K exits, N images, C classes]"
        )
    opinions = torch.cat([probabilities(logits), vote(logits, rule)[None]]).cpu()  # [K + 1, N, C]
    size = (WIDTH, len(indices) * max(1.5, 0.28 * len(opinions) + 0.8) + 0.3)
    figure, axes = subplots(len(indices), 2, size, width_ratios=(1, 3))
    for (left, right), i in zip(axes, indices):
        _picture(left, images.images[i])
        truth = int(images.labels[i])
        left.set_xlabel(short(f"true: {images.classes[truth]}", 15, lines=2), size=11)
        _opinions(right, opinions[:, i], truth, images.classes, top)
    figure.supxlabel("Probability (%); framed: the answer; bold: the true class", size=11)
    return figure


def _opinions(ax: Axes, opinions: Tensor, truth: int, classes: Sequence[str], top: int) -> None:
    """Probabilities `[K + 1, C]` of one image as cells: the exits and the vote."""
    answers = opinions.argmax(-1).tolist()
    ranked = opinions[-1].argsort(descending=True).tolist()
    shown = [c for i, c in enumerate(ranked) if i < top or c == truth or c in answers]
    shares = 100 * opinions[:, shown].numpy()
    draw_cells(ax, shares, np.char.mod("%.0f", shares))
    names = [short(classes[c], int(72 * 4.2 / len(shown) / LETTER), lines=2) for c in shown]
    ax.set_xticks(range(len(shown)), names)
    ax.set_yticks(range(len(answers)), [*(f"exit {k}" for k in range(1, len(answers))), "vote"])
    ax.tick_params(labelbottom=False, labeltop=True, length=0)
    ax.get_xticklabels()[shown.index(truth)].set_fontweight("bold")
    ax.axhline(len(answers) - 1.5, color="white", linewidth=4)
    for row, answer in enumerate(answers):
        corner = (shown.index(answer) - 0.48, row - 0.42)
        ax.add_patch(
            Rectangle(corner, 0.96, 0.84, fill=False, edgecolor=ORANGE, linewidth=2.5, zorder=3)
        )


def _picture(ax: Axes, pixels: Tensor) -> None:
    """One image, uint8 `[C, H, W]`, each pixel a square."""
    if len(pixels) not in (1, 3):
        raise ValueError(f"an image of {len(pixels)} channels cannot be shown: 1 or 3 can")
    ax.imshow(
        pixels.cpu().permute(1, 2, 0).numpy(),
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="nearest",
    )
    ax.grid(False)
    ax.set(xticks=[], yticks=[])


def _positions(indices: Sequence[int], count: int) -> list[int]:
    positions = [int(i) for i in indices]
    if not positions or not 0 <= min(positions) <= max(positions) < count:
        raise ValueError(f"got the indices {positions}: give one or more from 0 to {count - 1}")
    return positions
