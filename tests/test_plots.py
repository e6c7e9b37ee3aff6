"""Figures against the numbers they show, and legible: nothing cut off, large enough, by any eye."""

import itertools
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from tskd_lib import anytime, data, losses, metrics, pictures, plots, records, theme, voting
from tskd_lib.exits import build_student

pytestmark = pytest.mark.filterwarnings("error")
FLOPS = (2e6, 5e6, 9e6, 14.4e6)
LONG = "a_class_name_that_somebody_made_much_too_long_"
NAMES = ("exit 1", "exit 2", "exit 3", "vote", LONG)
UNNAMED_AXES = {"images", "opinions", "differences", "matrix", "features", "network"}


def draw(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draw_labels(images=300, classes=10, seed=1):
    return torch.randint(classes, (images,), generator=torch.Generator().manual_seed(seed))


LABELS = draw_labels()
LOGITS = draw((4, 300, 10)) + draw((300, 10), 2) + 2 * torch.nn.functional.one_hot(LABELS, 10)


def history(seed=0, epochs=5, exits=4, **terms):
    noise = np.random.default_rng(seed).random(epochs)
    return [
        {
            "epoch": epoch,
            "total": 3 / epoch + noise[epoch - 1],
            "accuracy": [0.1 * k + noise[epoch - 1] / 10 for k in range(1, exits + 1)],
            **terms,
        }
        for epoch in range(1, epochs + 1)
    ]


def results(methods, seeds, base=0.6, spread=0.02):
    """What `records.frame` makes of runs with these numbers of exits by method."""
    runs = []
    for method, exits in methods.items():
        for seed in seeds:
            noise = spread * np.random.default_rng([seed, len(method)]).random(exits + 1)
            quality = [{"accuracy": base + 0.05 * k + noise[k]} for k in range(exits + 1)]
            votes = {rule: quality[-1] for rule in voting.RULES}
            runs.append(
                {
                    "experiment": "trial",
                    "method": method,
                    "seed": seed,
                    "data": {"train images": 100, "name": "digits"},
                    "cost": {
                        "parameters": [1] * exits,
                        "flops": [1] * exits,
                        "seconds": 1.0,
                        "shared seconds": 1.0,
                        "images per second": 100.0,
                    },
                    "results": {"exits": quality[:-1], "votes": votes},
                }
            )
    return records.frame(runs)


def images(classes=tuple("0123456789"), channels=1, count=300):
    shape = (count, 8, 8) if channels == 1 else (count, 8, 12, channels)
    pixels = torch.randint(256, shape, generator=torch.Generator().manual_seed(3)).byte()
    return data.from_arrays("trial", pixels, LABELS[:count] % len(classes), classes)


def calibrations(count=4):
    return {
        f"exit {k + 1}": metrics.calibration(p, LABELS)
        for k, p in enumerate(voting.probabilities(LOGITS[:count]))
    }


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def bars(ax):
    """Bars from left to right, as (middle, bottom, top)."""
    found = (p for c in ax.containers for p in c if isinstance(p, Rectangle))
    return sorted(
        (p.get_x() + p.get_width() / 2, p.get_y(), p.get_y() + p.get_height()) for p in found
    )


# --- theme and styles ---


def test_the_library_loads_no_other_package_at_first():
    code = """
import sys
before = set(sys.modules)
import tskd_lib
print(*{name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["tskd_lib"]


def test_notebooks_get_twice_the_pixels_at_the_same_size():
    code = """
import base64, io
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
shell = InteractiveShell.instance()
from tskd_lib import theme
shown, about = shell.display_formatter.format(theme.subplots(1, 1, (6.4, 3))[0])
width, height = Image.open(io.BytesIO(base64.b64decode(shown["image/png"]))).size
page = about["image/png"]
assert abs(page["width"] - 6.4 * 120) < 20, page
assert abs(width - 2 * page["width"]) < 2 and abs(height - 2 * page["height"]) < 2
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("width, lines", [(0, 1), (0, 2), (1, 1), (5, 2)])
def test_names_are_cut_to_any_width(width, lines):
    parts = theme.short("a name of many letters", width, lines).splitlines()
    assert 1 <= len(parts) <= lines and max(map(len, parts)) <= max(1, width)


def test_every_preset_has_its_own_look():
    assert losses.PRESETS.keys() <= theme.METHODS.keys()
    for look in zip(*theme.METHODS.values()):
        assert len(set(look)) == len(theme.METHODS)


# Machado, Oliveira and Fernandes 2009, severity 1; linear RGB
EYES = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def linear(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    dark, light = sorted(XYZ[1] @ linear(colour) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def cielab(rgb):
    relative = XYZ @ np.clip(rgb, 0, 1) / (0.95047, 1, 1.08883)
    x, y, z = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES)
def test_methods_are_told_apart_by_colour(eye):
    seen = [cielab(np.array(EYES[eye]) @ linear(style.colour)) for style in theme.METHODS.values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 20


def test_colours_stand_out_from_white():
    names = [*theme.METHODS, "vote", *(f"exit {k}" for k in range(1, 9))]
    assert min(contrast(style.colour, "white") for style in theme.styles(names)) >= 3


def test_styles_of_answers_differ_and_of_methods_are_fixed():
    names = ["exit 1", "exit 2", "tskd", "vote majority", "vote logit", 0.5]
    found = theme.styles(names)
    assert found[2] == theme.METHODS["tskd"]
    assert len({(style.marker, style.line, style.colour) for style in found}) == len(names)
    assert found[-1].label == "0.5"


# --- curves ---


def test_curves_show_the_history():
    figure = plots.curves({"tskd": history(0), "kd": history(1)})
    lines = figure.axes[0].get_lines()
    assert [list(line.get_ydata()) for line in lines] == [
        [row["total"] for row in history(seed)] for seed in (0, 1)
    ]
    assert list(lines[0].get_xdata()) == [1, 2, 3, 4, 5]
    assert lines[0].get_marker() == theme.METHODS["tskd"].marker
    assert legend(figure) == ["TSKD", "KD"]
    assert figure.axes[0].get_xlabel() == "Epoch"


@pytest.mark.parametrize("epochs", [1, 4])
def test_curves_of_several_seeds_are_mean_and_interval(epochs):
    seeds = [history(seed, epochs) for seed in range(3)]
    figure = plots.curves({"tskd": seeds}, "accuracy", exit=2)
    ax = figure.axes[0]
    spans = [
        metrics.interval([100 * rows[i]["accuracy"][1] for rows in seeds]) for i in range(epochs)
    ]
    assert list(ax.get_lines()[0].get_ydata()) == pytest.approx([s.mean for s in spans])
    band = ax.collections[0].get_paths()[0].vertices
    for epoch, span in enumerate(spans, 1):
        there = band[band[:, 0] == epoch, 1]
        assert [there.min(), there.max()] == pytest.approx([span.low, span.high])
    assert ax.get_ylabel() == "Held-out accuracy, exit 2 (%)"
    assert ax.get_xlabel() == "Epoch (mean and 95 % interval of 3 seeds)"


def test_curves_take_the_deepest_exit_and_leave_out_who_lacks_the_term():
    figure = plots.curves({"tskd": history(), "kd": history(exits=1)}, "accuracy")
    ends = [line.get_ydata()[-1] for line in figure.axes[0].get_lines()]
    assert ends == [100 * history(exits=e)[-1]["accuracy"][-1] for e in (4, 1)]
    figure = plots.curves({"tskd": history(teacher=1.0), "baseline": history()}, "teacher")
    assert legend(figure) == ["TSKD"]
    assert "nats" in figure.axes[0].get_ylabel()


@pytest.mark.parametrize(
    "histories, term, exit, message",
    [
        ({}, "total", None, "no histories"),
        ({"tskd": history()}, "taecher", None, "none of tskd has 'taecher'"),
        ({"tskd": history()}, "accuracy", 5, "none of tskd"),
        ({"tskd": history()}, "total", 1, "only 'accuracy' is noted for each exit"),
        ({"tskd": []}, "total", None, "empty"),
        ({"tskd": [history(0, 3), history(1, 4)]}, "total", None, "same epochs"),
    ],
)
def test_curves_refuse(histories, term, exit, message):
    with pytest.raises(ValueError, match=message):
        plots.curves(histories, term, exit)


# --- exit bars ---


def test_exit_bars_are_means_and_intervals_over_seeds():
    table = results({"tskd": 3, "baseline": 1}, range(4))
    ax = plots.exit_bars(table).axes[0]
    groups = 100 * table.set_index(["method", "answer"]).sort_index().accuracy
    answers = ["tskd", "exit 1"], ["tskd", "exit 2"], ["baseline", "deepest"], ["tskd", "deepest"]
    answers = [*answers, ["tskd", "vote probability"]]
    spans = [metrics.interval(groups[tuple(answer)]) for answer in answers]
    found = bars(ax)
    assert [bottom for _, bottom, _ in found] == [0] * 5
    assert [top for _, _, top in found] == pytest.approx([span.mean for span in spans])
    assert [round(x) for x, _, _ in found] == [0, 1, 2, 2, 3]
    ends = sorted(s[:, 1].tolist() for c in ax.collections for s in c.get_segments())
    expected = sorted([span.low, span.high] for span in spans)
    np.testing.assert_allclose(ends, expected)
    assert ticks(ax.xaxis) == ["exit 1", "exit 2", "deepest", "vote"]
    assert ax.get_xlabel() == "mean and 95 % interval of 4 seeds"
    assert ax.get_ylabel() == "Accuracy (%)"
    assert ax.get_ylim()[0] == 0


def test_exit_bars_of_one_seed_have_no_interval_and_say_so():
    ax = plots.exit_bars(results({"tskd": 2}, [0])).axes[0]
    assert not any(len(s) for c in ax.collections for s in c.get_segments())
    assert ax.get_xlabel() == "one seed, so no interval"


def test_exit_bars_of_unequal_seeds_name_them():
    pair = [results({"teacher": 1}, [9]), results({"tskd": 2, "kd": 1}, range(3))]
    table = pd.concat(pair)
    figure = plots.exit_bars(table)
    assert legend(figure) == ["teacher (1 seed)", "KD (3 seeds)", "TSKD (3 seeds)"]
    assert figure.axes[0].get_xlabel().endswith("of 1 to 3 seeds (none for one seed)")


def test_exit_bars_say_where_a_shortened_axis_starts():
    table = results({"tskd": 4}, range(3))
    ax = plots.exit_bars(table, low=50).axes[0]
    assert ax.get_ylim()[0] == 50
    assert ax.get_ylabel() == "Accuracy (%), axis from 50"
    lowest = metrics.interval(100 * table[table.answer == "exit 1"].accuracy).low
    ax = plots.exit_bars(table, low=60.5).axes[0]
    assert ax.get_ylim()[0] == np.floor(lowest)  # the interval is not cut off
    assert ax.get_ylabel() == f"Accuracy (%), axis from {np.floor(lowest):g}"


@pytest.mark.parametrize("rule", ["majority", "logit"])
def test_exit_bars_show_the_rule_asked_for(rule):
    table = results({"tskd": 2}, [0])
    table.loc[table.answer == f"vote {rule}", "accuracy"] = 0.987
    assert bars(plots.exit_bars(table, rule).axes[0])[-1][2] == pytest.approx(98.7)


def test_exit_bars_show_the_calibration_error_asked_for():
    table = results({"tskd": 2}, range(3))
    table["ece"] = 0.1 * table.accuracy
    ax = plots.exit_bars(table, measure="ece").axes[0]
    expected = [top / 10 for _, _, top in bars(plots.exit_bars(table).axes[0])]
    assert [top for _, _, top in bars(ax)] == pytest.approx(expected)
    assert ax.get_ylabel() == "Calibration error, ECE (%)"


def test_exit_bars_refuse():
    table = results({"tskd": 2}, range(2))
    other = table.assign(experiment="other")
    for bad, low, message in [
        (table[:0], 0, "one experiment"),
        (pd.concat([table, other]), 0, "one experiment"),
        (pd.concat([table, table]), 0, "each seed once"),
        (table, 70, "lowest bar"),
        (table, -1, "lowest bar"),
        (table, float("nan"), "lowest bar"),
    ]:
        with pytest.raises(ValueError, match=message):
            plots.exit_bars(bad, low=low)
    with pytest.raises(ValueError, match="rule"):
        plots.exit_bars(table, "loudest")
    with pytest.raises(ValueError, match="measure 'nll': choose one of accuracy, ece"):
        plots.exit_bars(table, measure="nll")


# --- reliability ---


def test_reliability_of_one_answer():
    found = calibrations(1)["exit 1"]
    figure = plots.reliability(found)
    ax, strip = figure.axes[0], figure.axes[0].child_axes[0]
    filled = found.count > 0
    assert 0 < filled.sum() < 15
    tops = np.array([top for _, _, top in sorted(bars(ax))])
    np.testing.assert_allclose(tops, 100 * found.accuracy)
    points = ax.get_lines()[1]
    np.testing.assert_array_equal(points.get_xdata(), 100 * found.confidence)
    np.testing.assert_array_equal(points.get_ydata(), 100 * found.accuracy)
    values, edges, _ = strip.patches[0].get_data()
    np.testing.assert_array_equal(values, found.count)
    np.testing.assert_array_equal(edges, 100 * found.edges)
    assert legend(figure) == ["perfectly calibrated", f"ECE {100 * found.ece:.1f} %"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Confidence (%)", "Accuracy (%)")


def test_reliability_of_several_answers_is_overlaid():
    found = calibrations()
    figure = plots.reliability(found)
    assert legend(figure)[1:] == [f"{n}: ECE {100 * c.ece:.1f} %" for n, c in found.items()]
    for line, calibration in zip(figure.axes[0].get_lines()[1:], found.values()):
        np.testing.assert_array_equal(line.get_ydata(), 100 * calibration.accuracy)
    with pytest.raises(ValueError, match="no calibration"):
        plots.reliability({})


# --- confusion ---


def test_confusion_numbers_are_those_of_sklearn():
    answers = LOGITS[0].argmax(-1)
    figure = plots.confusion(LABELS, answers, list("abcdefghij"))
    ax = figure.axes[0]
    expected = sklearn.metrics.confusion_matrix(LABELS, answers)
    shown = {text.get_position(): int(text.get_text()) for text in ax.texts}
    assert shown == {(c, r): expected[r, c] for r in range(10) for c in range(10)}
    shares = ax.images[0].get_array()
    np.testing.assert_allclose(shares.sum(1), 100)
    np.testing.assert_allclose(shares * expected.sum(1, keepdims=True) / 100, expected)
    assert ticks(ax.xaxis) == ticks(ax.yaxis) == list("abcdefghij")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Answered class", "True class")
    for text in ax.texts:
        column, row = text.get_position()
        cell = ax.images[0].cmap(shares[row, column] / 100)
        assert contrast(text.get_color(), cell[:3]) >= 4.5


def test_confusion_of_a_class_without_images_is_empty():
    ax = plots.confusion([0, 0], [0, 1], ["a", "b", "c"]).axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), [[50, 50, 0], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize("classes, named", [(13, True), (21, False)])
def test_confusion_of_many_classes_has_no_numbers(classes, named):
    ax = plots.confusion(range(classes), range(classes), [f"class {i}" for i in range(classes)])
    ax = ax.axes[0]
    assert not ax.texts
    assert ("class 3" in ticks(ax.xaxis)) == named
    assert ax.get_xlabel() == ("Answered class" if named else "Answered class (number)")


@pytest.mark.parametrize(
    "labels, answers", [([0, 1], [0]), ([0, 2], [0, 1]), ([], []), ([0.0], [0])]
)
def test_confusion_refuses(labels, answers):
    with pytest.raises(ValueError, match="label"):
        plots.confusion(labels, answers, ["a", "b"])


# --- vote agreement ---


@pytest.mark.parametrize("rule, exits", [("majority", 4), ("probability", 4), ("logit", 1)])
def test_vote_agreement_counts(rule, exits):
    logits = LOGITS[:exits]
    ax = plots.vote_agreement(logits, LABELS, rule).axes[0]
    counts = np.zeros((exits + 1, 2))
    answers = voting.vote(logits, rule).argmax(-1)
    for i, answer in enumerate(answers):
        agreeing = sum(int(z.argmax() == answer) for z in logits[:, i])
        counts[agreeing, int(answer != LABELS[i])] += 1
    right, wrong = ax.containers[:2]
    np.testing.assert_allclose([bar.get_height() for bar in right], counts[:, 0] / 3)
    np.testing.assert_allclose([bar.get_height() for bar in wrong], counts[:, 1] / 3)
    np.testing.assert_allclose([bar.get_y() for bar in wrong], counts[:, 0] / 3)
    expected = [f"{100 * r / (r + w):.0f} %\nright" if r + w else "" for r, w in counts]
    assert [text.get_text() for text in ax.texts] == expected
    assert ax.get_ylabel() == "Images (%)"


def test_vote_agreement_refuses():
    with pytest.raises(ValueError, match="rule"):
        plots.vote_agreement(LOGITS, LABELS, "loudest")
    with pytest.raises(ValueError, match="labels"):
        plots.vote_agreement(LOGITS, LABELS[:5])


# --- images ---


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_shows_the_pixels(channels):
    shown = images(channels=channels)
    figure = pictures.image_grid(shown, [5, 0, 7], columns=2)
    assert len(figure.axes) == 4
    for ax, i in zip(figure.axes, [5, 0, 7]):
        pixels = shown.images[i].permute(1, 2, 0).squeeze().numpy()
        np.testing.assert_array_equal(ax.images[0].get_array(), pixels)
        assert ax.images[0].get_interpolation() == "nearest"
        assert ax.images[0].get_clim() == (0, 255)
        assert ax.get_xlabel() == str(int(LABELS[i]))
    assert not figure.axes[3].axison


def test_image_grid_takes_captions_and_formulas_stay_text():
    figure = pictures.image_grid(images(), [0, 1], captions=["cost: $5_or_$6", "b"])
    assert [ax.get_xlabel() for ax in figure.axes] == [r"cost: \$5 or \$6", "b"]


def test_image_functions_refuse():
    shown = images()
    for indices in ([], [300], [-1]):
        with pytest.raises(ValueError, match="from 0 to 299"):
            pictures.image_grid(shown, indices)
        with pytest.raises(ValueError, match="from 0 to 299"):
            pictures.exit_opinions(shown, LOGITS, indices)
    with pytest.raises(ValueError, match="caption"):
        pictures.image_grid(shown, [0, 1], ["only one"])
    with pytest.raises(ValueError, match="300 images"):
        pictures.exit_opinions(shown, LOGITS[:, :5], [0])
    with pytest.raises(ValueError, match="channels"):
        pictures.image_grid(images(channels=2), [0])


def test_exit_opinions_are_probabilities_answers_and_truth():
    shown, index = images(), 11
    learned = LOGITS.clone().requires_grad_()
    figure = pictures.exit_opinions(shown, learned, [3, index], top=3)
    picture, cells = figure.axes[2:]
    assert picture.get_xlabel() == f"true: {LABELS[index]}"
    columns = [int(name) for name in ticks(cells.xaxis)]
    opinions = torch.cat([LOGITS.softmax(-1), voting.vote(LOGITS)[None]])[:, index]
    answers = opinions.argmax(-1).tolist()
    assert {*opinions[-1].topk(3).indices.tolist(), int(LABELS[index]), *answers} == set(columns)
    assert ticks(cells.yaxis) == ["exit 1", "exit 2", "exit 3", "exit 4", "vote"]
    for text in cells.texts:
        column, row = text.get_position()
        assert text.get_text() == f"{100 * opinions[row, columns[column]]:.0f}"
    framed = [
        (p.get_y() + p.get_height() / 2, p.get_x() + p.get_width() / 2) for p in cells.patches
    ]
    expected = [(row, columns.index(answer)) for row, answer in enumerate(answers)]
    assert np.array(framed) == pytest.approx(np.array(expected))
    bold = [t.get_text() for t in cells.get_xticklabels() if t.get_fontweight() == "bold"]
    assert bold == [str(int(LABELS[index]))]


# --- early exit ---


def test_accuracy_against_flops_shows_curve_and_exits():
    curve = anytime.curve(LOGITS, LABELS, FLOPS)
    accuracies = metrics.accuracy(LOGITS, LABELS)
    figure = plots.accuracy_against_flops(curve, zip(FLOPS, accuracies))
    ax = figure.axes[0]
    line, _, *points = ax.get_lines()
    np.testing.assert_allclose(line.get_xdata(), curve.flops / 1e6)
    np.testing.assert_allclose(line.get_ydata(), 100 * curve.accuracy)
    np.testing.assert_allclose(np.ravel([p.get_xdata() for p in points]), [2, 5, 9, 14.4])
    np.testing.assert_allclose(np.ravel([p.get_ydata() for p in points]), 100 * accuracies)
    assert [text.get_text() for text in ax.texts] == ["exit 1", "exit 2", "exit 3", "exit 4"]
    assert ax.get_xlabel() == "Mean cost of an image (MFLOPs)"
    assert ax.get_ylabel() == "Accuracy (%)"


def test_accuracy_against_flops_of_several_names_each_exit_once():
    curve = anytime.curve(LOGITS, LABELS, FLOPS)
    exits = {"byot": [(2e6, 0.4), (5e6, 0.6)], "tskd": [(2e6, 0.5), (5e6, 0.55)]}
    figure = plots.accuracy_against_flops({"byot": curve, "tskd": curve}, exits)
    assert legend(figure) == ["BYOT", "TSKD"]
    assert [text.xy for text in figure.axes[0].texts] == [(2, 40), (5, 100 * 0.55)]
    assert legend(plots.accuracy_against_flops({"byot": curve})) == ["BYOT"]
    for curves, exits in [({}, {}), ({"byot": curve}, {"kd": []}), ({"byot": curve}, [(1, 0.5)])]:
        with pytest.raises(ValueError, match="names of curves"):
            plots.accuracy_against_flops(curves, exits)


@pytest.mark.parametrize("flops, unit", [(20, "FLOPs"), (5e3, "kFLOPs"), (3e9, "GFLOPs")])
def test_the_unit_of_flops_fits(flops, unit):
    table = anytime.curve(LOGITS[:1], LABELS, [flops])
    label = plots.accuracy_against_flops(table).axes[0].get_xlabel()
    assert label == f"Mean cost of an image ({unit})"


# --- every figure ---

METHODS = {"baseline": 1, "kd": 1, "multi_exit": 4, "byot": 4, "tskd": 4}
TWO_CURVES = {
    "tskd": anytime.curve(LOGITS, LABELS, FLOPS),
    LONG: anytime.curve(LOGITS[:1], LABELS, [9e6]),
}


def settings_table():
    random = np.random.default_rng(0)
    places = itertools.product(("kd", "tskd"), (0, 0.1, 0.3, 1, 3), range(3))
    columns = ("method", "weight", "seed")
    return pd.DataFrame(
        [dict(zip(columns, place)) | {"accuracy": random.normal(0.9, 0.01)} for place in places]
    )


def gain(mean):
    return metrics.paired([mean - 1, mean, mean + 1], [0, 0, 0])


def tiny_student():
    return build_student("resnet8", 10, (1, 16, 16), width=0.5, exits=(1, 3))


def long_names(count):
    return [LONG + str(i) for i in range(count)]


def diagonal(count, images=1):
    return torch.arange(count).repeat(images)


HARD = {
    "curves": lambda: plots.curves(
        {m: [history(s) for s in range(2)] for m in METHODS}, "accuracy"
    ),
    "curves, one epoch": lambda: plots.curves({LONG * 3: history(epochs=1), "kd": history()}),
    "bars": lambda: plots.exit_bars(results(METHODS, range(3))),
    "bars, wide interval": lambda: plots.exit_bars(results({"tskd": 2}, range(2), 0, 0.9)),
    "bars, one exit, unknown": lambda: plots.exit_bars(results({LONG: 1, "kd": 1}, [0])),
    "bars, nothing right": lambda: plots.exit_bars(results({"kd": 1}, [0, 1], 0, 0)),
    "bars, eight exits": lambda: plots.exit_bars(results({"tskd": 8, "teacher": 1}, [0], 0.2)),
    "reliability": lambda: plots.reliability(calibrations(1)["exit 1"]),
    "reliability, five": lambda: plots.reliability({n: calibrations(1)["exit 1"] for n in NAMES}),
    "confusion": lambda: plots.confusion(LABELS, LOGITS[0].argmax(-1), list("abcdefghij")),
    "confusion, 12": lambda: plots.confusion(diagonal(12, 999), diagonal(12, 999), long_names(12)),
    "confusion, 20": lambda: plots.confusion(diagonal(20), diagonal(20), long_names(20)),
    "confusion, 100": lambda: plots.confusion(diagonal(100), diagonal(100), long_names(100)),
    "agreement": lambda: plots.vote_agreement(LOGITS, LABELS),
    "agreement, one exit": lambda: plots.vote_agreement(LOGITS[:1], LABELS),
    "images": lambda: pictures.image_grid(images(long_names(10)), range(7)),
    "images, one": lambda: pictures.image_grid(images(channels=3), [0]),
    "opinions": lambda: pictures.exit_opinions(images(long_names(10)), LOGITS, [0, 1]),
    "opinions, one exit": lambda: pictures.exit_opinions(images(), LOGITS[:1], [0]),
    "sweep": lambda: plots.sweep(settings_table(), "weight", log=True, xlabel="Weight of a term"),
    "differences": lambda: plots.differences({LONG: gain(0.4), "kd": gain(2), "tskd": gain(-2)}),
    "matrix": lambda: plots.matrix(draw((4, 4)), NAMES[:3] + (LONG,), "Disagreement"),
    "probabilities": lambda: pictures.probability_bars(
        {name: LOGITS[k, 0].softmax(-1) for k, name in enumerate(NAMES[:3])}, long_names(10)
    ),
    "features": lambda: pictures.feature_maps(draw((4, 300, 2)), LABELS, "0123456789", NAMES[:4]),
    "network": lambda: pictures.network(tiny_student()),
    "flops": lambda: plots.accuracy_against_flops(
        TWO_CURVES, {"tskd": [(f, 0.5) for f in FLOPS], LONG: [(9e6, 0.5)]}
    ),
}


def cut_off(figure):
    """How far the farthest thing drawn reaches outside the figure, in inches."""
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    return max(-box.x0, -box.y0, box.x1 - width, box.y1 - height)


def visible_labels(axis):
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    labels = [label for tick in ticks for label in (tick.label1, tick.label2)]
    return [label for label in labels if label.get_visible() and label.get_text()]


def assert_apart(texts):
    boxes = [text.get_window_extent().padded(-1) for text in texts]
    for (i, one), (j, other) in itertools.combinations(enumerate(boxes), 2):
        assert not one.overlaps(other), (texts[i].get_text(), texts[j].get_text())


@pytest.mark.parametrize("name", HARD)
def test_figures_are_whole_and_legible_on_a_phone(name):
    figure = HARD[name]()
    assert isinstance(figure, Figure) and not plt.get_fignums()
    figure.draw_without_rendering()
    assert cut_off(figure) < 0.01
    assert figure.get_facecolor() == (1, 1, 1, 1)
    phone = 360 / (72 * figure.get_figwidth())  # pixels a point
    for text in figure.findobj(lambda a: isinstance(a, Text) and a.get_text()):
        assert text.get_size() * phone >= 8.5, text.get_text()
    for ax in figure.axes:
        assert not ax.get_title()
        for axis in (ax.xaxis, ax.yaxis):
            assert_apart(visible_labels(axis))
        if ax.get_legend():
            assert_apart(ax.get_legend().get_texts())
    if name.split(",")[0] not in UNNAMED_AXES:
        assert figure.axes[0].get_xlabel() and figure.axes[0].get_ylabel()


def test_the_check_for_cut_off_text_works():
    figure = plots.vote_agreement(LOGITS, LABELS)
    figure.axes[0].text(-2, 0, "outside of everything")
    figure.axes[0].texts[-1].set_in_layout(False)
    figure.draw_without_rendering()
    figure.axes[0].texts[-1].set_in_layout(True)
    assert cut_off(figure) > 0.1


def test_figures_are_drawn_on_given_axes():
    figure, axes = plt.subplots(2, 3)
    curve = anytime.curve(LOGITS, LABELS, FLOPS)
    for draw_on, ax in zip(
        (
            lambda ax: plots.curves({"kd": history()}, ax=ax),
            lambda ax: plots.exit_bars(results({"tskd": 2}, [0]), ax=ax),
            lambda ax: plots.reliability(calibrations(1), ax=ax),
            lambda ax: plots.confusion([0, 1], [0, 1], ["a", "b"], ax=ax),
            lambda ax: plots.vote_agreement(LOGITS, LABELS, ax=ax),
            lambda ax: plots.accuracy_against_flops(curve, ax=ax),
        ),
        axes.flat,
    ):
        assert draw_on(ax) is figure
        assert ax.has_data()
    plt.close(figure)


# --- sweeps, differences, matrices, features, networks ---


def test_a_sweep_is_mean_and_interval_of_the_seeds_in_percent():
    table = settings_table()
    figure = plots.sweep(table, "weight", log=True, xlabel="Weight")
    (ax,) = figure.axes
    assert legend(figure) == ["KD", "TSKD"] and ticks(ax.xaxis) == ["0", "0.1", "0.3", "1", "3"]
    tables = [rows for _, rows in table.groupby("method")]
    for line, band, rows in zip(ax.lines, ax.collections, tables):
        runs = [
            metrics.interval(100 * rows.query("weight == @w").accuracy) for w in (0, 0.1, 0.3, 1, 3)
        ]
        assert line.get_xdata().tolist() == [0, 0.1, 0.3, 1, 3]
        assert line.get_ydata() == pytest.approx([run.mean for run in runs])
        edge = band.get_paths()[0].vertices[:, 1]
        assert edge.min() == pytest.approx(min(run.low for run in runs))
        assert edge.max() == pytest.approx(max(run.high for run in runs))
    assert ax.get_xlabel() == "Weight (mean and 95 % interval of 3 seeds)"


def test_a_sweep_of_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"without the columns \['temperature'\]"):
        plots.sweep(settings_table(), "temperature")
    with pytest.raises(ValueError, match="got 0 rows"):
        plots.sweep(settings_table()[:0], "weight")


def test_a_single_setting_of_zero_and_a_name_without_letters_are_drawn():
    table = settings_table()
    figure = plots.sweep(table[table.weight == 0], "weight", log=True)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0"]
    figure = plots.curves({"": history()}, "total")
    assert figure.axes[0].get_legend() is None


def test_only_differences_clear_of_zero_are_drawn_full():
    gains = {"clear": gain(5), "open": gain(0.4), "worse": gain(-5)}
    (ax,) = plots.differences(gains).axes
    spans, dots = ax.lines[:-1:2], ax.lines[1:-1:2]
    for span, dot, one in zip(spans, dots, gains.values()):
        assert span.get_xdata() == pytest.approx([one.t_low, one.t_high])
        assert dot.get_xdata() == pytest.approx([one.mean])
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True, False]
    assert ticks(ax.yaxis) == ["clear", "open", "worse"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first is at the top"
    with pytest.raises(ValueError, match="no differences"):
        plots.differences({})


def test_a_matrix_shows_its_numbers_and_leaves_out_what_is_none():
    values = np.array([[np.nan, 0.25], [0.5, 1]])
    figure = plots.matrix(values, ["a", "b"], "share")
    assert [text.get_text() for text in figure.axes[0].texts] == ["", "0.25", "0.50", "1.00"]
    assert ticks(figure.axes[1].yaxis) == ["0.00", "0.50", "1.00"]
    with pytest.raises(ValueError, match=r"\(2, 2\) for 3 rows, 3 columns"):
        plots.matrix(values, ["a", "b", "c"])


def test_a_matrix_of_other_columns_starts_where_it_is_told():
    values = np.array([[90.0, 92.5, 95.0]])
    figure = plots.matrix(values, ["a"], "%", ["x", "y", "z"], start=None)
    axes, bar = figure.axes
    assert ticks(axes.xaxis) == ["x", "y", "z"] and ticks(axes.yaxis) == ["a"]
    assert axes.images[0].get_array().tolist() == [[0, 50, 100]]
    assert ticks(bar.yaxis) == ["90.0", "92.5", "95.0"]


def test_probability_bars_are_the_probabilities():
    opinions = {name: LOGITS[k, 0].softmax(-1) for k, name in enumerate(("teacher", "tskd"))}
    (ax,) = pictures.probability_bars(opinions, "0123456789").axes
    for drawn, opinion in zip(ax.containers, opinions.values()):
        assert [bar.get_height() for bar in drawn] == pytest.approx((100 * opinion).tolist())
    assert ticks(ax.xaxis) == list("0123456789")
    with pytest.raises(ValueError, match="for 3 classes"):
        pictures.probability_bars(opinions, "abc")


def test_feature_maps_have_every_image_once_in_each_panel():
    points = draw((3, 300, 2))
    figure = pictures.feature_maps(points, LABELS, "0123456789", ["a", "b", "c"])
    figure.draw_without_rendering()
    assert [ax.get_xlabel() for ax in figure.axes[:3]] == ["a", "b", "c"]
    for ax, panel in zip(figure.axes, points):
        drawn = np.concatenate([dots.get_offsets() for dots in ax.collections])
        assert np.array_equal(np.sort(drawn, axis=0), np.sort(panel.numpy(), axis=0))
        assert sorted(text.get_text() for text in ax.texts) == list("0123456789")
        assert_apart(ax.texts)
    with pytest.raises(ValueError, match=r"give \[K, N, 2\]"):
        pictures.feature_maps(points[:, :5], LABELS, "0123456789", ["a", "b", "c"])
    with pytest.raises(ValueError, match="for 0 titles"):
        pictures.feature_maps(points[:0], LABELS, "0123456789", [])


def test_names_that_are_far_apart_stand_at_the_median_of_their_images():
    points = draw((1, 300, 2)) + 30 * LABELS[:, None]
    (ax,) = pictures.feature_maps(points, LABELS, "0123456789", ["a"]).axes
    assert [text.get_text() for text in ax.texts] == list("0123456789")
    for label, text in enumerate(ax.texts):
        assert text.get_position() == tuple(points[0, LABELS == label].median(0).values.tolist())


def test_the_network_is_drawn_as_it_is():
    student = tiny_student()
    texts = [text.get_text() for text in pictures.network(student).axes[0].texts]
    boxes = [text for text in texts if text]
    assert boxes[0] == "image\n1 × 16 × 16"
    assert boxes[1] == "stem and stage 1\n8 × 16 × 16" and boxes[3] == "stage 2\n16 × 8 × 8"
    first, last = student.parameter_counts()
    share = student.flops()[0] / student.flops()[-1]
    assert boxes[2] == f"exit 1\n{first / last:.0%} of parameters, {share:.0%} of FLOPs"
    assert boxes[-2].startswith("exit 2, the deepest\n100%") and f"{last:,} parameters" in boxes[-1]
