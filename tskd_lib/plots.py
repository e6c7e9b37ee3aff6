"""Every figure of the book, one function each.

Each function draws on the Axes that it is given, or on a new figure, and returns the Figure.
A new figure is a value that pyplot does not hold on to: as the last line of a cell (without a
semicolon) it is shown, once; `display` shows it elsewhere, `savefig` keeps it. There are no
titles, because a caption stands beside the picture.

Importing this module sets the theme. Figures are opaque white, so that they read the same on
light and on dark pages, and 6.4 inches wide with letters of at least 11 points, so that a
phone's 360 pixels are enough. A method has one colour, marker and line everywhere.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation, Transform, blended_transform_factory
from torch import Tensor

from .data import Images
from .metrics import Calibration, Interval, interval
from .voting import RULES, check_labels, check_logits, probabilities, vote

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 6.4  # inches
LETTER = 6.8  # points: the mean width of a letter, generously, to see what fits
CELLS = sns.color_palette("mako_r", as_cmap=True)
BLUE, ORANGE, INK = "#015D90", "#D55E00", "#222222"
TERMS = {
    "total": "Loss, weighted sum of all terms",
    "label": "Weighted label term (nats)",
    "teacher": "Weighted teacher term (nats)",
    "self": "Weighted self term (nats)",
    "feature": "Weighted feature term (squared distance)",
    "train accuracy": "Training accuracy, deepest exit (%)",
    "accuracy": "Held-out accuracy, {exit} (%)",
    "lr": "Learning rate",
}


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
    """Set the book's look for every figure from here on; done once when this is imported."""
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


theme()


def curves(
    histories: Mapping[str, Sequence],
    term: str = "total",
    exit: int | None = None,
    ax: Axes | None = None,
) -> Figure:
    """How a loss term or the accuracy went over the epochs, a line for each method.

    Several seeds become their mean with a band, the 95 % t interval of the mean. Methods
    without this term (a student alone has no "teacher" term) are left out.

    Args:
        histories: by method or any other name, what `training.fit` gives for it: a list of
            one dict an epoch; or a list of such lists, one for each seed.
        term: a key of those dicts: "total", "label", "teacher", "self", "feature",
            "train accuracy", "accuracy" or "lr".
        exit: whose "accuracy", from 1; the deepest exit's if None.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: where nothing has this term or exit, or seeds differ in their epochs.
    """
    runs = {name: _runs(name, history, term, exit) for name, history in histories.items()}
    runs = {name: run for name, run in runs.items() if run is not None}
    if not runs:
        raise ValueError(f"none of {', '.join(map(str, histories)) or 'no histories'} has {term!r}")
    ax = _axes(ax)
    for (epochs, values), style in zip(runs.values(), styles(runs)):
        spans = [_interval(seeds) for seeds in values.T]
        look = {"color": style.colour, "linestyle": style.line, "marker": style.marker}
        means = [span.mean for span in spans]
        every = max(1, len(epochs) // 8)
        ax.plot(epochs, means, label=style.label, markevery=every, **look)
        if len(values) > 1:
            low, high = [s.low for s in spans], [s.high for s in spans]
            ax.fill_between(epochs, low, high, color=style.colour, alpha=0.2, linewidth=0)
            if len(epochs) == 1:  # a band of one epoch has no width
                ax.vlines(epochs, low, high, color=style.colour)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    label = TERMS.get(term, term).format(exit=f"exit {exit}" if exit else "deepest exit")
    counts = [len(values) for _, values in runs.values()]
    ax.set_xlabel("Epoch" + (f" ({_interval_note(counts)})" if max(counts) > 1 else ""))
    ax.set_ylabel(label)
    return _legend(ax)


def exit_bars(
    results: pd.DataFrame, rule: str = "probability", low: float = 0.0, ax: Axes | None = None
) -> Figure:
    """Accuracy of every exit and of the vote, a bar for each method.

    Bars are means over seeds; where there are two seeds or more, the 95 % t interval of the
    mean is drawn.

    Args:
        results: rows of one experiment, from `records.frame`.
        rule: which vote to show, one of `voting.RULES`.
        low: where the axis starts, in percent; if it is not 0, the axis says so.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: for an unknown rule, no rows, rows of several experiments, a seed that
            occurs twice, or a `low` that would hide a bar.
    """
    table, places = _bars(results, rule)
    if low and not 0 < low < table["mean"].min():
        raise ValueError(
            f"got {low=:g}: give 0, or less than the lowest bar of {table['mean'].min():.4g} %"
        )
    ax, drawn, methods = _axes(ax), {}, list(table["method"].unique())
    bottom = np.nanmin([low, np.floor(table["low"].min())])  # no interval is cut off
    top = 1.05 * max(1, table[["mean", "high"]].max(axis=None)) - 0.05 * bottom
    foot = max(0, bottom) + 0.04 * (top - bottom)
    for method, style in zip(methods, styles(methods)):
        part = table[table["method"] == method]
        x, means, lows, highs = part[["x", "mean", "low", "high"]].to_numpy().T
        bars = ax.bar(x, means, part["width"].iloc[0], color=style.colour)
        ends = np.array([means - lows, highs - means])
        ax.errorbar(x, means, ends, fmt="none", ecolor=INK, capsize=3)
        (marks,) = ax.plot(x, [foot] * len(x), style.marker, color="white")
        note = f" ({_seeds(part['n'])})" if table["n"].nunique() > 1 else ""
        drawn[style.label + note] = (bars, marks)
    ax.grid(False, axis="x")
    ax.set_ylim(bottom, top)
    ax.set(xticks=range(len(places)), xticklabels=places, xlim=(-0.6, len(places) - 0.4))
    ax.set_xlabel(_interval_note(table["n"]))
    ax.set_ylabel("Accuracy (%)" + (f", axis from {bottom:g}" if bottom > 0 else ""))
    return _legend(ax, drawn.values(), drawn)


def reliability(
    calibrations: Calibration | Mapping[str, Calibration], ax: Axes | None = None
) -> Figure:
    """Reliability diagram (Guo et al. 2017): how often answers of a given confidence are right.

    Points lie at a bin's mean confidence and accuracy: below the diagonal answers are surer
    than they should be. The strip above counts the images of each bin. The legend has the
    expected calibration error. A single calibration has its bins drawn as bars too.

    Args:
        calibrations: from `metrics.calibration`; several by name are laid over each other.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: where there is none.
    """
    if isinstance(calibrations, Calibration):
        calibrations = {"": calibrations}
    if not calibrations:
        raise ValueError("got no calibration: give at least one from metrics.calibration")
    ax = _axes(ax, 5.2)
    strip = ax.inset_axes((0, 0.15, 1, 0.75), transform=_above(ax), sharex=ax)
    ax.plot([0, 100], [0, 100], ":", color=INK, label="perfectly calibrated")
    for found, style in zip(calibrations.values(), styles(calibrations)):
        edges, share = 100 * found.edges.numpy(), 100 * found.accuracy.numpy()
        look = {"color": style.colour, "marker": style.marker, "linestyle": style.line}
        if len(calibrations) == 1:
            ax.bar(edges[:-1], share, np.diff(edges), align="edge", color=style.colour, alpha=0.4)
            look["linestyle"] = "none"
        label = f"{style.label}: ECE {100 * found.ece:.1f} %".removeprefix(": ")
        ax.plot(100 * found.confidence.numpy(), share, label=label, clip_on=False, **look)
        strip.stairs(found.count.numpy(), edges, color=style.colour, linewidth=1.5)
    strip.tick_params(labelbottom=False)
    strip.set_ylabel("Images")
    strip.yaxis.set_major_locator(MaxNLocator(2, integer=True, prune="lower"))
    strip.set_ylim(0, 1.1 * max(int(found.count.max()) for found in calibrations.values()))
    ax.set(xlim=(0, 100), ylim=(0, 100), xlabel="Confidence (%)", ylabel="Accuracy (%)")
    return _legend(ax, above=0.95)


def confusion(
    labels: Tensor, predictions: Tensor, classes: Sequence[str], ax: Axes | None = None
) -> Figure:
    """Confusion matrix: which class is taken for which.

    Colours are shares of the true class, in percent; numbers count images, and are left out
    where they would not fit. With more than 20 classes the axes have class numbers.

    Args:
        labels: the true classes `[N]`.
        predictions: the answered classes `[N]`.
        classes: names of the C classes.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: for labels or predictions that are not N numbers from 0 to C - 1.
    """
    from sklearn.metrics import confusion_matrix

    for given in (labels, predictions):
        check_labels(torch.as_tensor(given), torch.empty(len(labels), len(classes)))
    labels, predictions = (np.asarray(torch.as_tensor(x).cpu()) for x in (labels, predictions))
    counts = confusion_matrix(labels, predictions, labels=range(len(classes)))
    ax = _axes(ax, 5.6)
    shares = 100 * counts / counts.sum(1, keepdims=True).clip(1)
    fits = len(classes) <= 12 and len(classes) * len(str(counts.max())) <= 48
    cells = _cells(ax, shares, np.char.mod("%d", counts) if fits else None)
    named = len(classes) <= 20
    if named:
        names = [_short(name, 20) for name in classes]
        upright = 90 if max(map(len, names)) > 40 / len(classes) else 0
        ax.set_xticks(range(len(classes)), names, rotation=upright)
        ax.set_yticks(range(len(classes)), names)
    unit = "class" if named else "class (number)"
    ax.set(xlabel=f"Answered {unit}", ylabel=f"True {unit}")
    ax.figure.colorbar(cells, ax=ax, label="Share of the true class (%)")
    return ax.get_figure(root=True)


def vote_agreement(
    logits: Tensor, labels: Tensor, rule: str = "probability", ax: Axes | None = None
) -> Figure:
    """How many exits agree with their vote, and how often the vote is right then.

    The height of a bar is the share of images on which so many exits answer what the vote
    answers; the number on it is how often the vote is right on those. A vote of means can
    answer what no exit does.

    Args:
        logits: `[K, N, C]`.
        labels: `[N]`.
        rule: of the vote, one of `voting.RULES`.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: for logits or labels of the wrong shape, type or range, or an unknown rule.
    """
    logits = check_logits(logits)
    answer = vote(logits, rule).argmax(-1)
    right = (answer == check_labels(labels, logits)).cpu().numpy()
    agree = (logits.argmax(-1) == answer).sum(0).cpu().numpy()
    sizes = range(len(logits) + 1)
    hits, misses = (np.bincount(agree[x], minlength=len(sizes)) for x in (right, ~right))
    good, bad = 100 * hits / len(labels), 100 * misses / len(labels)
    ax = _axes(ax)
    ax.bar(sizes, good, color=BLUE, label="vote right")
    bars = ax.bar(
        sizes, bad, bottom=good, color=ORANGE, hatch="//", linewidth=0, label="vote wrong"
    )
    notes = [f"{100 * h / (h + m):.0f} %\nright" if h + m else "" for h, m in zip(hits, misses)]
    ax.bar_label(bars, notes, padding=2, size=11)
    ax.grid(False, axis="x")
    ax.set_xticks(sizes)
    ax.margins(y=0.2)
    ax.set(xlabel=f"Exits that answer what the vote answers, of {len(logits)}", ylabel="Images (%)")
    return _legend(ax)


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
    captions = [_short(caption, int(72 * cell / LETTER), lines=2) for caption in captions]
    lines = 1 + max(caption.count("\n") for caption in captions)
    _, height, width = images.shape
    size = (WIDTH, rows * (cell * height / width + 0.2 * lines))
    figure, axes = _subplots(rows, columns, size)
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
    figure, axes = _subplots(len(indices), 2, size, width_ratios=(1, 3))
    for (left, right), i in zip(axes, indices):
        _picture(left, images.images[i])
        truth = int(images.labels[i])
        left.set_xlabel(_short(f"true: {images.classes[truth]}", 15, lines=2), size=11)
        _opinions(right, opinions[:, i], truth, images.classes, top)
    figure.supxlabel("Probability (%); framed: the answer; bold: the true class", size=11)
    return figure


def accuracy_against_flops(
    curves: pd.DataFrame | Mapping[str, pd.DataFrame],
    exits: Iterable[tuple[float, float]] | Mapping[str, Iterable[tuple[float, float]]] = (),
    ax: Axes | None = None,
) -> Figure:
    """What early exit reaches for its cost, beside each exit answering every image.

    Args:
        curves: from `anytime.curve`; several by name.
        exits: (FLOPs, accuracy as a fraction) of each exit, shallow to deep, for example
            `zip(network.flops(), metrics.accuracy(logits, labels))`; by the same names.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: where there is no curve, or exits of a name that has none.
    """
    if not isinstance(curves, Mapping):
        curves, exits = {"early exit": curves}, {"early exit": exits}
    if not curves or not isinstance(exits or {}, Mapping) or not set(exits) <= set(curves):
        raise ValueError("give one curve or more, and exits under the names of curves only")
    exits = {name: [(float(f), float(a)) for f, a in dict(exits).get(name, ())] for name in curves}
    ax = _axes(ax)
    unit, scale = _flops_unit(max(table["flops"].max() for table in curves.values()))
    lowest = {}
    for (name, table), style in zip(curves.items(), styles(curves)):
        look = {"color": style.colour, "linestyle": style.line}
        ax.plot(table["flops"] / scale, 100 * table["accuracy"], **look)
        ax.plot([], [], label=style.label, marker=style.marker if exits[name] else "", **look)
        for k, (cost, accuracy) in enumerate(exits[name], 1):
            ax.plot(cost / scale, 100 * accuracy, style.marker, color=style.colour, markersize=9)
            if len(exits[name]) > 1:
                lowest[k, cost] = min(accuracy, lowest.get((k, cost), 1))
    below = {"textcoords": "offset points", "size": 11, "va": "top", "ha": "center"}
    for (k, cost), accuracy in lowest.items():
        ax.annotate(f"exit {k}", (cost / scale, 100 * accuracy), (0, -8), **below)
    ax.margins(0.1, 0.15)
    ax.set(xlabel=f"Mean cost of an image ({unit})", ylabel="Accuracy (%)")
    return _legend(ax)


def styles(names: Iterable[str]) -> list[Style]:
    """How to draw these: methods as in `METHODS`, votes orange, others from light to dark."""
    names, found, dashes = [str(name) for name in names], {}, ("-", "--", "-.", (0, (1, 1)))
    votes = [name for name in names if name.startswith("vote")]
    others = [name for name in names if name not in METHODS and name not in votes]
    for group, ramp, markers in (
        (votes, [ORANGE] * len(votes), "*Xph8"),
        (others, sns.blend_palette(["#3B9BD9", INK], max(2, len(others))).as_hex(), "os^Dv<>"),
    ):
        for i, name in enumerate(group):
            label, marker = _short(name, 40, lines=2), markers[i % len(markers)]
            found[name] = Style(label, ramp[i], marker, dashes[i % len(dashes)])
    return [METHODS.get(name) or found[name] for name in names]


def _axes(ax: Axes | None, height: float = 4.0) -> Axes:
    return _subplots(1, 1, (WIDTH, height))[1][0, 0] if ax is None else ax


def _subplots(rows: int, columns: int, size: tuple[float, float], **grid):
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained", gridspec_kw=grid
    )
    plt.close(figure)  # pyplot lets go of it; else a notebook would show it a second time
    return figure, axes


def _above(ax: Axes) -> Transform:
    """Across: fractions of the Axes. Up: inches from its upper edge."""
    up = ax.figure.dpi_scale_trans + ScaledTranslation(0, 1, ax.transAxes)
    return blended_transform_factory(ax.transAxes, up)


def _legend(ax: Axes, drawn: Iterable = (), labels: Iterable[str] = (), above: float = 0) -> Figure:
    """A legend so many inches above the Axes, in as many columns as fit; the figure."""
    drawn, labels = (list(drawn), list(labels)) if drawn else ax.get_legend_handles_labels()
    lengths = [max(map(len, label.split("\n"))) for label in labels]
    for columns in range(len(lengths), 0, -1):
        widths = [LETTER * max(part) + 42 for part in np.array_split(lengths, columns)]
        if sum(widths) < 72 * WIDTH:
            break
    look = {"frameon": False, "columnspacing": 1.0, "handletextpad": 0.5, "ncols": columns}
    look |= {"handleheight": 1.1, "markerscale": 0.9}
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, above), "bbox_transform": _above(ax)}
    ax.legend(drawn, labels, borderaxespad=0.2, **place, **look)
    return ax.get_figure(root=True)


def _short(name: str, width: int, lines: int = 1) -> str:
    """A name in at most so many lines of so many letters; an ellipsis stands for its middle."""
    name = whole = str(name).replace("_", " ")
    for left in range(width * lines - 1, 0, -1):
        parts = textwrap.wrap(name, max(1, width))
        if len(parts) <= lines:
            break
        name = whole[: left - left // 2] + "…" + whole[len(whole) - left // 2 :]
    return "\n".join(parts[:lines]).replace("$", r"\$")  # a pair of $ would start a formula


def _seeds(counts: Iterable[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low if low == high else f'{low} to {high}'} seed{'s' if high > 1 else ''}"


def _interval_note(counts: Iterable[int]) -> str:
    """Name the seeds behind a figure, and what was made of them."""
    if max(counts) == 1:
        return "one seed, so no interval"
    one = " (none for one seed)" if min(counts) == 1 else ""
    return f"mean and 95 % interval of {_seeds(counts)}{one}"


def _interval(values: Sequence[float]) -> Interval:
    """`metrics.interval`, or the bare value without an end where there is only one."""
    if len(values) == 1:
        return Interval(float(values[0]), *[float("nan")] * 3, 1)
    return interval(values)


def _runs(name: str, history: Sequence, term: str, exit: int | None):
    """Epochs `[E]` and values `[seeds, E]` of a term, accuracies in percent; None without it."""
    seeds = [history] if history and isinstance(history[0], Mapping) else list(history)
    if not seeds or not all(seeds):
        raise ValueError(f"the history of {name!r} is empty")
    if len({tuple(row["epoch"] for row in rows) for rows in seeds}) > 1:
        raise ValueError(f"the seeds of {name!r} do not have the same epochs")
    if not all(term in row for rows in seeds for row in rows):
        return None
    values = [[row[term] for row in rows] for rows in seeds]
    if term == "accuracy":
        exits = min(len(exits) for rows in values for exits in rows)
        if exit is not None and not 1 <= exit <= exits:
            return None
        values = [[exits[-1 if exit is None else exit - 1] for exits in rows] for rows in values]
    scale = 100 if "accuracy" in term else 1
    return [row["epoch"] for row in seeds[0]], scale * np.array(values, dtype=float)


def _bars(results: pd.DataFrame, rule: str) -> tuple[pd.DataFrame, list[str]]:
    """The bars of `exit_bars`: method, x, width, mean, low, high (percent), n; and the places."""
    import pandas as pd

    if rule not in RULES:
        raise ValueError(f"got the rule {rule!r}: choose one of {', '.join(RULES)}")
    if results.empty or results["experiment"].nunique() > 1:
        raise ValueError("exit_bars needs the results of one experiment, not of none or several")
    if results.duplicated(["method", "answer", "seed"]).any():
        raise ValueError("a method has two results of one seed: give each seed once")
    exits = results.loc[results["answer"].str.startswith("exit "), "answer"].unique()
    places = [*sorted(exits, key=lambda exit: int(exit.split()[1])), "deepest", f"vote {rule}"]
    places = [place for place in places if (results["answer"] == place).any()]
    known = [*METHODS, *results["method"].unique()]
    rows = []
    for method in sorted(results["method"].unique(), key=known.index):
        for place, answer in enumerate(places):
            mine = results[(results["method"] == method) & (results["answer"] == answer)]
            if len(mine):
                span = _interval(100 * mine["accuracy"].to_numpy())
                rows.append({"method": method, "x": place, **span._asdict()})
    table = pd.DataFrame(rows)
    here = table.groupby("x")["method"]
    table["width"] = min(0.25, 0.84 / here.size().max())
    table["x"] += table["width"] * (here.cumcount() - (here.transform("size") - 1) / 2)
    return table, [place.removesuffix(f" {rule}") for place in places]


def _cells(ax: Axes, shares: np.ndarray, texts: np.ndarray | None = None):
    """Percentages `[R, C]` as coloured cells, with texts in whatever contrasts more."""
    ax.grid(False)
    cells = ax.imshow(shares, cmap=CELLS, vmin=0, vmax=100, aspect="auto")
    for (row, column), text in np.ndenumerate([] if texts is None else texts):
        channels = np.array(CELLS(shares[row, column] / 100)[:3])
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        light = linear @ (0.2126, 0.7152, 0.0722) > 0.179  # WCAG: black on it contrasts more
        colour = "black" if light else "white"
        ax.text(column, row, text, color=colour, size=11, ha="center", va="center")
    return cells


def _opinions(ax: Axes, opinions: Tensor, truth: int, classes: Sequence[str], top: int) -> None:
    """Probabilities `[K + 1, C]` of one image as cells: the exits and the vote."""
    answers = opinions.argmax(-1).tolist()
    ranked = opinions[-1].argsort(descending=True).tolist()
    shown = [c for i, c in enumerate(ranked) if i < top or c == truth or c in answers]
    shares = 100 * opinions[:, shown].numpy()
    _cells(ax, shares, np.char.mod("%.0f", shares))
    names = [_short(classes[c], int(72 * 4.2 / len(shown) / LETTER), lines=2) for c in shown]
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


def _flops_unit(largest: float) -> tuple[str, float]:
    units = ("FLOPs", 1.0), ("kFLOPs", 1e3), ("MFLOPs", 1e6), ("GFLOPs", 1e9)
    return next((unit for unit in reversed(units) if largest >= unit[1]), units[0])
