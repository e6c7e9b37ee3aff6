"""Charts of results, one function each.

Each function draws on a new figure, or on the Axes that it is given, and returns the Figure.
A new figure is a value that pyplot does not hold on to: as the last line of a cell (without a
semicolon) it is shown, once; `display` shows it elsewhere, `savefig` keeps it. There are no
titles, because a caption stands beside the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .metrics import Calibration, Interval, Paired, interval
from .theme import (
    BLUE,
    GREY,
    INK,
    METHODS,
    ORANGE,
    Style,
    above_edge,
    axes_or_new,
    count_seeds,
    draw_cells,
    interval_note,
    legend,
    short,
    styles,
)
from .voting import RULES, check_labels, check_logits, vote

if TYPE_CHECKING:
    import pandas as pd

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
MEASURES = {"accuracy": "Accuracy (%)", "ece": "Calibration error, ECE (%)"}


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
        ValueError: where nothing has this term or exit, an exit is given for another term than
            "accuracy", or seeds differ in their epochs.
    """
    if exit is not None and term != "accuracy":
        raise ValueError(f"only 'accuracy' is noted for each exit, got exit {exit} of {term!r}")
    runs = {name: _runs(name, history, term, exit) for name, history in histories.items()}
    runs = {name: run for name, run in runs.items() if run is not None}
    if not runs:
        raise ValueError(f"none of {', '.join(map(str, histories)) or 'no histories'} has {term!r}")
    ax = axes_or_new(ax)
    for (epochs, values), style in zip(runs.values(), styles(runs)):
        _band(ax, epochs, [_interval(seeds) for seeds in values.T], style)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    label = TERMS.get(term, term).format(exit=f"exit {exit}" if exit else "deepest exit")
    counts = [len(values) for _, values in runs.values()]
    ax.set_xlabel("Epoch" + (f" ({interval_note(counts)})" if max(counts) > 1 else ""))
    ax.set_ylabel(label)
    return legend(ax)


def sweep(
    results: pd.DataFrame,
    x: str,
    by: str = "method",
    log: bool = False,
    xlabel: str = "",
    ax: Axes | None = None,
) -> Figure:
    """How accuracy changes with one setting: mean and 95 % t interval over seeds.

    Args:
        results: a row for each run, with its "accuracy".
        x: the column with the setting, numbers.
        by: a line for each value of this column.
        log: place the settings by their logarithm; 0 has its place left of the smallest.
        xlabel: what `x` is, with its unit.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: there are no rows, or the columns do not exist.
    """
    missing = {x, "accuracy", by} - set(results.columns)
    if missing or results.empty:
        raise ValueError(f"got {len(results)} rows without the columns {sorted(missing)}")
    ax, lines = axes_or_new(ax), results[by].unique()
    settings = sorted(results[x].unique())
    if log:
        smallest = min((setting for setting in settings if setting > 0), default=1)
        ax.set_xscale("symlog", linthresh=smallest, linscale=0.5)
    ax.set_xticks(settings, [f"{setting:g}" for setting in settings], minor=False)
    ax.minorticks_off()
    counts = []
    for line, style in zip(lines, styles(lines)):
        runs = (100 * results[results[by] == line].set_index(x).accuracy).groupby(level=0)
        spans = [_interval(values.to_numpy()) for _, values in runs]
        _band(ax, list(runs.groups), spans, style)
        counts += [span.n for span in spans]
    ax.set_xlabel(f"{xlabel or x} ({interval_note(counts)})")
    ax.set_ylabel("Accuracy (%)")
    return legend(ax)


def differences(gains: Mapping[str, Paired], unit: str = "points") -> Figure:
    """Differences between methods, each with its 95 % interval beside a line at zero.

    An interval that does not reach zero is drawn full, one that does is drawn open: those seeds
    do not tell the two methods apart.

    Args:
        gains: by name, from `metrics.paired` at its usual level (as are the intervals).
        unit: of the differences.

    Raises:
        ValueError: there is none.
    """
    if not gains:
        raise ValueError("got no differences: give one or more")
    ax = axes_or_new(None, 1.1 + 0.4 * len(gains))
    for row, gain in enumerate(gains.values()):
        clear = gain.t_low > 0 or gain.t_high < 0
        colour = BLUE if clear else GREY
        ax.plot([gain.t_low, gain.t_high], [row, row], color=colour, linewidth=2.5)
        ax.plot(gain.mean, row, "o", color=colour, markerfacecolor=colour if clear else "white")
    ax.axvline(0, color=INK, linewidth=1)
    ax.set_yticks(range(len(gains)), [short(name, 32, lines=2) for name in gains])
    ax.set(ylim=(len(gains) - 0.5, -0.5))
    note = interval_note([gain.n for gain in gains.values()])
    ax.figure.supxlabel(f"Difference in {unit} ({note})", size=12)
    return ax.get_figure(root=True)


def matrix(
    values: Tensor | np.ndarray | pd.DataFrame,
    rows: Sequence[str],
    label: str = "",
    columns: Sequence[str] | None = None,
    start: float | None = 0.0,
) -> Figure:
    """A table of numbers as colours, with the numbers on them.

    Args:
        values: `[R, C]`; not-a-number leaves a cell empty.
        rows: names of the R rows.
        label: what the numbers are.
        columns: names of the C columns; those of the rows if None.
        start: where the colours start, or lower if a value is; at the smallest value if None.

    Raises:
        ValueError: there are not as many names as values.
    """
    values = np.asarray(values, dtype=float)
    columns = rows if columns is None else columns
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"got values of shape {values.shape} for {len(rows)} rows, {len(columns)} columns"
        )
    ax = axes_or_new(None, 4.4)
    low, high = np.nanmin(values), np.nanmax(values)
    low = low if start is None else min(start, low)
    shares = 100 * (values - low) / (high - low or 1)
    digits = 2 if high < 10 else 1
    texts = np.where(np.isnan(values), "", np.char.mod(f"%.{digits}f", values))
    picture = draw_cells(ax, shares, texts)
    ax.set_xticks(range(len(columns)), [short(name, 12, lines=2) for name in columns])
    ax.set_yticks(range(len(rows)), [short(name, 22, lines=2) for name in rows])
    bar = ax.figure.colorbar(picture, label=label)
    ends = [f"{low + (high - low) * t:.{digits}f}" for t in (0, 0.5, 1)]
    bar.set_ticks([0, 50, 100], labels=ends)
    return ax.get_figure(root=True)


def exit_bars(
    results: pd.DataFrame,
    rule: str = "probability",
    low: float = 0.0,
    measure: str = "accuracy",
    ax: Axes | None = None,
) -> Figure:
    """Accuracy or calibration error of every exit and of the vote, a bar for each method.

    Bars are means over seeds; where there are two seeds or more, the 95 % t interval of the
    mean is drawn.

    Args:
        results: rows of one experiment, from `records.frame`.
        rule: which vote to show, one of `voting.RULES`.
        low: where the axis starts, in percent; if it is not 0, the axis says so.
        measure: "accuracy", or "ece" for the expected calibration error.
        ax: where to draw; a new figure if None.

    Raises:
        ValueError: for an unknown rule or measure, no rows, rows of several experiments, a seed
            that occurs twice, or a `low` that would hide a bar.
    """
    table, places = _bars(results, rule, measure)
    if low and not 0 < low < table["mean"].min():
        raise ValueError(
            f"got {low=:g}: give 0, or less than the lowest bar of {table['mean'].min():.4g} %"
        )
    ax, drawn, methods = axes_or_new(ax), {}, list(table["method"].unique())
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
        note = f" ({count_seeds(part['n'])})" if table["n"].nunique() > 1 else ""
        drawn[style.label + note] = (bars, marks)
    ax.grid(False, axis="x")
    ax.set_ylim(bottom, top)
    ax.set(xticks=range(len(places)), xticklabels=places, xlim=(-0.6, len(places) - 0.4))
    ax.set_xlabel(interval_note(table["n"]))
    ax.set_ylabel(MEASURES[measure] + (f", axis from {bottom:g}" if bottom > 0 else ""))
    return legend(ax, drawn.values(), drawn)


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
    ax = axes_or_new(ax, 5.2)
    strip = ax.inset_axes((0, 0.15, 1, 0.75), transform=above_edge(ax), sharex=ax)
    ax.plot([0, 100], [0, 100], ":", color=INK, label="perfectly calibrated")
    for found, style in zip(calibrations.values(), styles(calibrations)):
        edges, share = 100 * found.edges.numpy(), 100 * found.accuracy.numpy()
        look = {"color": style.colour, "marker": style.marker, "linestyle": style.line}
        if len(calibrations) == 1:
            ax.bar(edges[:-1], share, np.diff(edges), align="edge", color=style.colour, alpha=0.4)
            look["linestyle"] = "none"
        label = f"{style.label}: ECE {100 * found.ece:.1f} %".removeprefix(": ")
        ax.plot(100 * found.confidence.numpy(), share, label=label, clip_on=False, **look)
        strip.stairs(
            found.count.numpy(), edges, color=style.colour, linestyle=style.line, linewidth=1.5
        )
    strip.tick_params(labelbottom=False)
    strip.set_ylabel("Images")
    strip.yaxis.set_major_locator(MaxNLocator(2, integer=True, prune="lower"))
    strip.set_ylim(0, 1.1 * max(int(found.count.max()) for found in calibrations.values()))
    ax.set(xlim=(0, 100), ylim=(0, 100), xlabel="Confidence (%)", ylabel="Accuracy (%)")
    return legend(ax, above=0.95)


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
    ax = axes_or_new(ax, 5.6)
    shares = 100 * counts / counts.sum(1, keepdims=True).clip(1)
    fits = len(classes) <= 12 and len(classes) * len(str(counts.max())) <= 48
    cells = draw_cells(ax, shares, np.char.mod("%d", counts) if fits else None)
    named = len(classes) <= 20
    if named:
        names = [short(name, 20) for name in classes]
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
    ax = axes_or_new(ax)
    ax.bar(sizes, good, color=BLUE, label="vote right")
    bars = ax.bar(
        sizes, bad, bottom=good, color=ORANGE, hatch="//", linewidth=0, label="vote wrong"
    )
    notes = [f"{100 * h / (h + m):.0f} %\nright" if h + m else "" for h, m in zip(hits, misses)]
    plain = {"facecolor": "white", "edgecolor": "none", "pad": 0}  # no grid behind the letters
    ax.bar_label(bars, notes, padding=2, size=11, bbox=plain)
    ax.grid(False, axis="x")
    ax.set_xticks(sizes)
    ax.margins(y=0.2)
    ax.set(xlabel=f"Exits that answer what the vote answers, of {len(logits)}", ylabel="Images (%)")
    return legend(ax)


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
    ax = axes_or_new(ax)
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
    return legend(ax)


def _band(ax: Axes, x: Sequence[float], spans: Sequence[Interval], style: Style) -> None:
    """A line through the means and a band over the intervals, where there are any."""
    look = {"color": style.colour, "linestyle": style.line, "marker": style.marker}
    every = max(1, len(x) // 8)
    ax.plot(x, [span.mean for span in spans], label=style.label, markevery=every, **look)
    low, high = [span.low for span in spans], [span.high for span in spans]
    ax.fill_between(x, low, high, color=style.colour, alpha=0.2, linewidth=0)
    if len(x) == 1:  # a band of one place has no width
        ax.vlines(x, low, high, color=style.colour)


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


def _bars(results: pd.DataFrame, rule: str, measure: str) -> tuple[pd.DataFrame, list[str]]:
    """The bars of `exit_bars`: method, x, width, mean, low, high (percent), n; and the places."""
    import pandas as pd

    if rule not in RULES:
        raise ValueError(f"got the rule {rule!r}: choose one of {', '.join(RULES)}")
    if measure not in MEASURES:
        raise ValueError(f"got the measure {measure!r}: choose one of {', '.join(MEASURES)}")
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
                span = _interval(100 * mine[measure].to_numpy())
                rows.append({"method": method, "x": place, **span._asdict()})
    table = pd.DataFrame(rows)
    here = table.groupby("x")["method"]
    table["width"] = min(0.25, 0.84 / here.size().max())
    table["x"] += table["width"] * (here.cumcount() - (here.transform("size") - 1) / 2)
    return table, [place.removesuffix(f" {rule}") for place in places]


def _flops_unit(largest: float) -> tuple[str, float]:
    units = ("FLOPs", 1.0), ("kFLOPs", 1e3), ("MFLOPs", 1e6), ("GFLOPs", 1e9)
    return next((unit for unit in reversed(units) if largest >= unit[1]), units[0])
