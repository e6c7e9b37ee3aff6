"""The look of every figure: sizes, colours, a style for each method, and what figures share.

Importing this module sets the theme. Figures are opaque white, so that they read the same on
light and on dark pages, and 6.4 inches wide with letters of at least 11 points, so that a
phone's 360 pixels are enough. A method has one colour, marker and line everywhere.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.transforms import ScaledTranslation, Transform, blended_transform_factory

WIDTH = 6.4  # inches
LETTER = 6.8  # points: the mean width of a letter, generously, to see what fits
CELLS = sns.color_palette("mako_r", as_cmap=True)
BLUE, ORANGE, INK, GREY = "#015D90", "#D55E00", "#222222", "#6E6E6E"


class Style(NamedTuple):
    """How one method or answer looks in every figure."""

    label: str
    colour: str
    marker: str
    line: str | tuple


# seaborn's colour-blind palette, darkened where a colour fell below 3:1 against white
METHODS = {
    "teacher": Style("teacher", "#222222", "X", ":"),
    "baseline": Style("student alone", "#8A8A8A", "o", "--"),
    "kd": Style("KD", "#015D90", "s", "-."),
    "multi_exit": Style("multi-exit", "#3B9BD9", "^", (0, (1, 1))),
    "byot": Style("BYOT", "#BD8853", "v", (0, (5, 1, 1, 1, 1, 1))),
    "tskd": Style("TSKD", "#D55E00", "P", "-"),
}


def theme() -> None:
    """Set the book's look for every figure from here on; done once when this is imported.

    Notebooks show figures at twice the resolution, which sharp screens need, and at the same size.
    """
    sizes = dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 11)
    sizes |= dict.fromkeys(("font.size", "axes.labelsize", "figure.labelsize"), 12)
    rc = {
        **sizes,
        "figure.figsize": (WIDTH, 4.0),
        "figure.dpi": 120,
        "figure.facecolor": "white",
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.06,
        "figure.constrained_layout.h_pad": 0.06,
        "lines.markersize": 7,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.edgecolor": "#808080",
    }
    sns.set_theme(style="whitegrid", palette="colorblind", font="DejaVu Sans", rc=rc)
    ipython = sys.modules.get("IPython")
    if ipython and ipython.get_ipython():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")


theme()


def styles(names: Iterable[str]) -> list[Style]:
    """How to draw these: methods as in `METHODS`, votes orange, others from light to dark."""
    names, found, dashes = [str(name) for name in names], {}, ("-", "--", "-.", (0, (1, 1)))
    votes = [name for name in names if name.startswith("vote")]
    others = [name for name in names if name not in METHODS and name not in votes]
    for group, ramp, markers in (
        (votes, [ORANGE] * len(votes), "*Xph8"),
        (others, sns.blend_palette(["#9B4F96", INK], max(2, len(others))).as_hex(), "os^Dv<>"),
    ):
        for i, name in enumerate(group):
            label, marker = short(name, 40, lines=2), markers[i % len(markers)]
            found[name] = Style(label, ramp[i], marker, dashes[i % len(dashes)])
    return [METHODS.get(name) or found[name] for name in names]


def axes_or_new(ax: Axes | None, height: float = 4.0) -> Axes:
    """The Axes given, or those of a new figure so many inches high."""
    return subplots(1, 1, (WIDTH, height))[1][0, 0] if ax is None else ax


def subplots(
    rows: int, columns: int, size: tuple[float, float], **grid
) -> tuple[Figure, np.ndarray]:
    """A new figure of this size in inches, and its Axes `[rows, columns]`."""
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained", gridspec_kw=grid
    )
    plt.close(figure)  # pyplot lets go of it; else a notebook would show it a second time
    return figure, axes


def above_edge(ax: Axes) -> Transform:
    """Across: fractions of the Axes. Up: inches from its upper edge."""
    up = ax.figure.dpi_scale_trans + ScaledTranslation(0, 1, ax.transAxes)
    return blended_transform_factory(ax.transAxes, up)


def legend(ax: Axes, drawn: Iterable = (), labels: Iterable[str] = (), above: float = 0) -> Figure:
    """A legend so many inches above the Axes, in as many columns as fit; the figure."""
    drawn, labels = (list(drawn), list(labels)) if drawn else ax.get_legend_handles_labels()
    if not labels:
        return ax.get_figure(root=True)
    lengths = [max(map(len, label.split("\n"))) for label in labels]
    for columns in range(len(lengths), 0, -1):
        widths = [LETTER * max(part) + 42 for part in np.array_split(lengths, columns)]
        if sum(widths) < 72 * WIDTH:
            break
    look = {"frameon": False, "columnspacing": 1.0, "handletextpad": 0.5, "ncols": columns}
    look |= {"handleheight": 1.1, "markerscale": 0.9}
    place = {
        "loc": "lower center",
        "bbox_to_anchor": (0.5, above),
        "bbox_transform": above_edge(ax),
    }
    ax.legend(drawn, labels, borderaxespad=0.2, **place, **look)
    return ax.get_figure(root=True)


def short(name: str, width: int, lines: int = 1) -> str:
    """A name in at most so many lines of so many letters; an ellipsis stands for its middle."""
    name, width = str(name).replace("_", " "), max(1, width)
    whole, parts = name, textwrap.wrap(name, width)
    for left in range(width * lines - 1, 0, -1):
        parts = textwrap.wrap(name, width)
        if len(parts) <= lines:
            break
        name = whole[: left - left // 2] + "…" + whole[len(whole) - left // 2 :]
    return "\n".join(parts[:lines]).replace("$", r"\$")  # a pair of $ would start a formula


def count_seeds(counts: Iterable[int]) -> str:
    """'3 seeds', or '3 to 5 seeds' where they differ."""
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} seed{'s' if high > 1 else ''}"


def interval_note(counts: Iterable[int]) -> str:
    """Name the seeds behind a figure, and what was made of them."""
    if max(counts) == 1:
        return "one seed, so no interval"
    one = " (none for one seed)" if min(counts) == 1 else ""
    return f"mean and 95 % interval of {count_seeds(counts)}{one}"


def draw_cells(ax: Axes, shares: np.ndarray, texts: np.ndarray | None = None) -> AxesImage:
    """Draw percentages `[R, C]` as coloured cells, with texts in whatever contrasts more."""
    ax.grid(False)
    picture = ax.imshow(shares, cmap=CELLS, vmin=0, vmax=100, aspect="auto")
    for (row, column), text in np.ndenumerate([] if texts is None else texts):
        channels = np.array(CELLS(shares[row, column] / 100)[:3])
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        light = linear @ (0.2126, 0.7152, 0.0722) > 0.179  # WCAG: black on it contrasts more
        colour = "black" if light else "white"
        ax.text(column, row, text, color=colour, size=11, ha="center", va="center")
    return picture
