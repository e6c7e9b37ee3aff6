"""Pictures of images, of what a network says of them, and of the network itself.

As in `plots`, each function returns a Figure to be shown as the last line of a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor

from .data import Images
from .exits import MultiExitNet
from .networks import feature_shapes
from .theme import (
    INK,
    LETTER,
    ORANGE,
    WIDTH,
    axes_or_new,
    draw_cells,
    legend,
    short,
    styles,
    subplots,
)
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


def probability_bars(opinions: Mapping[str, Tensor], classes: Sequence[str]) -> Figure:
    """How probable one or several networks hold each class of one image.

    Args:
        opinions: by name, probabilities `[C]`.
        classes: names of the C classes; numbers stand for them where there is no room.

    Raises:
        ValueError: there is no opinion, or one of another number of classes.
    """
    sizes = {name: tuple(opinion.shape) for name, opinion in opinions.items()}
    if not opinions or set(sizes.values()) != {(len(classes),)}:
        raise ValueError(f"got probabilities of shapes {sizes} for {len(classes)} classes")
    ax = axes_or_new(None, 3.0)
    width = 0.84 / len(opinions)
    for i, (opinion, style) in enumerate(zip(opinions.values(), styles(opinions))):
        places = np.arange(len(classes)) + width * (i - (len(opinions) - 1) / 2)
        hatch = ("", "//", "..", "xx")[i % 4]
        shares = 100 * opinion.detach().cpu().numpy()
        ax.bar(places, shares, width, color=style.colour, label=style.label, hatch=hatch,
               edgecolor="white")  # fmt: skip
    ax.grid(False, axis="x")
    letters = int(72 * 5.4 / len(classes) / LETTER)
    if letters:
        ax.set_xticks(range(len(classes)), [short(c, letters, lines=2) for c in classes])
    ax.set(ylim=(0, 105), xlabel="Class", ylabel="Probability (%)")
    return legend(ax)


def feature_maps(
    points: Tensor, labels: Tensor, classes: Sequence[str], titles: Sequence[str]
) -> Figure:
    """Images as points of a plane, a panel for each exit; a class has a colour and its name.

    Args:
        points: `[K, N, 2]`, for example the features' first two principal components.
        labels: `[N]`.
        classes: their names; each is written where its images have their median, or above a name
            that is there already.
        titles: of the K panels.

    Raises:
        ValueError: the shapes do not fit.
    """
    points, labels = torch.as_tensor(points).cpu(), labels.cpu()
    if not titles or points.shape != (len(titles), len(labels), 2):
        raise ValueError(
            f"got points of shape {tuple(points.shape)} for {len(titles)} titles and "
            f"{len(labels)} labels: give [K, N, 2]"
        )
    columns = min(2, len(titles))
    rows = -(-len(titles) // columns)
    figure, axes = subplots(rows, columns, (WIDTH, WIDTH / columns * rows))
    colours = sns.color_palette("husl", len(classes))
    plate = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7}
    look = {"size": 12, "weight": "bold", "ha": "center", "va": "center", "bbox": plate}
    for ax in axes.flat[len(titles) :]:
        ax.set_axis_off()
    for ax, panel, title in zip(axes.flat, points, titles):
        names = []
        for label, (name, colour) in enumerate(zip(classes, colours)):
            mine = panel[labels == label]
            if len(mine):
                ax.scatter(*mine.T, s=14, color=colour, alpha=0.6, linewidth=0)
                names.append((mine.median(0).values.tolist(), short(name, 20)))
        wide, high = (0.07 * (panel.amax(0) - panel.amin(0))).tolist()  # of a letter of `look`
        taken = []
        for (x, y), name in sorted(names, key=lambda place: place[0][1]):
            for left, low, letters in taken:
                if abs(x - left) < wide * (len(name) + letters) / 2 and y < low + high:
                    y = low + high
            taken.append((x, y, len(name)))
            ax.text(x, y, name, **look)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel(short(title, 60))
        ax.grid(False)
    return figure


def network(student: MultiExitNet) -> Figure:
    """A multi-exit network as it is: stages with the shapes of their outputs, exits with costs.

    Each exit tells the parameters and FLOPs of one image up to it, as shares of the whole.
    """
    shapes = feature_shapes(student.backbone)
    parameters, flops = student.parameter_counts(), student.flops()
    height = 1.0 * (len(shapes) + 2)
    ax = axes_or_new(None, height)
    ax.set_axis_off()
    ax.set(xlim=(0, 10), ylim=(len(shapes) + 1.5, -0.5))

    def box(x: float, y: float, text: str, colour: str, width: float) -> None:
        ax.add_patch(FancyBboxPatch((x - width / 2, y - 0.28), width, 0.56, fc=colour, ec=INK,
                                    boxstyle="round,pad=0.02", mutation_aspect=0.5))  # fmt: skip
        ax.text(x, y, text, size=11, ha="center", va="center")

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK})

    def size(shape: Sequence[int]) -> str:
        return " × ".join(map(str, shape))

    left, right = 2.0, 7.2
    box(left, 0, f"image\n{size(student.backbone.input_shape)}", "white", 3.4)
    for stage, shape in enumerate(shapes, 1):
        arrow((left, stage - 0.7), (left, stage - 0.3))
        stem = "stem and " if stage == 1 else ""
        box(left, stage, f"{stem}stage {stage}\n{size(shape)}", "#CFE3F1", 3.4)
        if stage in student.exits:
            k = student.exits.index(stage)
            shares = [counts[k] / counts[-1] for counts in (parameters, flops)]
            share = "{:.0%} of parameters, {:.0%} of FLOPs".format(*shares)
            name = f"exit {k + 1}" + ", the deepest" * (stage == student.exits[-1])
            arrow((left + 1.75, stage), (right - 2.65, stage))
            box(right, stage, f"{name}\n{share}", "#FBE3CF", 5.2)
    total = f"in all: {parameters[-1]:,} parameters, {flops[-1]:,} FLOPs an image"
    ax.text(5, len(shapes) + 1, total, size=11, ha="center", va="center")
    return ax.get_figure(root=True)


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
