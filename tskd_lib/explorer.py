"""The experiment explorer: recorded runs behind a few controls, with no kernel and no network.

Everything that it shows travels inside the page as numbers; a small script draws them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from html import escape
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from . import analysis, metrics, records
from .data import Images
from .theme import METHODS
from .widgets import KEYS, data_address

SCRIPT = Path(__file__).with_name("explorer.js")
DASHES = {"-": "none", "--": "8 4", "-.": "8 3 2 3"}
STYLE = """
.tskd-explorer { margin: 1em 0; container-type: inline-size; }
.tskd-explorer .controls { display: flex; flex-wrap: wrap; gap: .5em 1.5em; }
.tskd-explorer .controls > div { flex: 1 1 12em; }
.tskd-explorer :is(select, input) { display: block; width: 100%; }
.tskd-explorer .views { background: #fff; color: #222; display: grid; padding: .5em;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 17em), 1fr)); gap: .5em; }
.tskd-explorer p { margin: .8em 0; }
.tskd-explorer svg[hidden] { display: none; }
.tskd-explorer svg { width: 100%; aspect-ratio: 340 / 230; font: 12px sans-serif; fill: #222; }
.tskd-explorer .samples { display: grid; gap: .4em;
  grid-template-columns: repeat(auto-fill, minmax(4.6em, 1fr)); }
.tskd-explorer .samples figure { margin: 0; text-align: center; }
.tskd-explorer .samples img { width: 48px; height: 48px; image-rendering: pixelated; }
.tskd-explorer .samples figcaption { font-size: .75em; line-height: 1.3; color: #222; }
"""


class Explorer:
    """Recorded runs to look through; shown as the last line of a cell.

    Choose a method, an exit or the vote, the number of images, the temperature and the
    threshold of early exit; see the accuracy, its curves, and the answers to sample images.

    Args:
        folder: of records with analyses beside them, one for each method, seed, number of
            training images and, where a method has soft targets, temperature.
        test: the images that the analyses are of.

    Raises:
        RecordError: where a record or an analysis is missing, or they are of different runs;
            where a setting has one seed only, or two records of one seed.
    """

    def __init__(self, folder: Path, test: Images):
        groups: dict[tuple, list] = {}
        for record in records.read_all(folder):
            groups.setdefault(_setting(record), []).append(record)
        analyses = analysis.read_all(folder)
        if {found["test sha256"] for found in analyses.values()} != {test.checksum()}:
            raise records.RecordError(f"the analyses in {folder} are of other test images")
        methods, images, temperatures = (list(dict.fromkeys(column)) for column in zip(*groups))
        _check(groups, methods, images, [t for t in temperatures if t])
        runs = {setting: _summary(of_it, analyses) for setting, of_it in groups.items()}
        names = max((run["accuracy"] for run in runs.values()), key=len)
        places = next(iter(analyses.values()))["samples"]["place"]
        self.pictures = [_png(test.images[place]) for place in places]
        self.data = {
            "methods": {m: _look(m, soft=(m, images[0], "") not in groups)
                        for m in sorted(methods, key=list(METHODS).index)},
            "answers": {name: "vote" if name.startswith("vote") else name for name in names},
            "images": sorted(images),
            "temperatures": sorted((t for t in temperatures if t), key=float),
            "thresholds": list(analysis.THRESHOLDS),
            "classes": list(test.classes),
            "truth": test.labels[places].tolist(),
            "runs": {"|".join(map(str, setting)): run for setting, run in runs.items()},
        }  # fmt: skip

    def __repr__(self) -> str:
        """What stands for the explorer where HTML cannot be shown."""
        return f"Experiment explorer, {len(self.data['runs'])} settings: open it in a browser"

    def _repr_html_(self) -> str:
        data = json.dumps(self.data, separators=(",", ":")).replace("</", "<\\/")
        name = "explorer-" + hashlib.sha256(data.encode()).hexdigest()[:8]
        first = list(self.data["methods"])[-1]
        menus = {
            "method": (
                "Method",
                {m: look["label"] for m, look in self.data["methods"].items()},
                first,
            ),
            "answer": ("Answer", self.data["answers"], "deepest"),
        }
        sliders = {
            "shots": ("Images a class", self.data["images"], 1),
            "temperature": ("Temperature T", self.data["temperatures"], 2),
            "threshold": ("Threshold of early exit", self.data["thresholds"], 6),
        }
        controls = [_menu(f"{name}-{part}", part, *menu) for part, menu in menus.items()]
        controls += [_slider(f"{name}-{part}", part, *slider) for part, slider in sliders.items()]
        views = "".join(f'<svg data-part="{part}" viewBox="0 0 340 230" role="img"></svg>'
                        for part in ("answers", "images", "front"))  # fmt: skip
        samples = "".join(
            f'<figure><img src="{picture}" width="48" height="48" alt="{escape(truth)}">'
            "<figcaption></figcaption></figure>"
            for picture, truth in zip(self.pictures, self._truths())
        )
        views += (
            "<div><strong>Sample images</strong> (first seed): answer, confidence, exit"
            f'<div class="samples" data-part="samples">{samples}</div></div>'
        )
        return (
            f"<style>{STYLE}</style>{self._without_script()}"
            f'<div class="tskd-explorer" id="{name}" role="group" '
            f'aria-label="Experiment explorer" hidden>'
            f'<div class="controls">{"".join(controls)}</div>'
            f'<p data-part="said" aria-live="polite"></p><div class="views">{views}</div></div>'
            f"<script>({SCRIPT.read_text('utf-8')})(document.getElementById('{name}'), {data})"
            "</script>"
        )

    def _truths(self) -> list[str]:
        return [f"an image of class {self.data['classes'][label]}" for label in self.data["truth"]]

    def _without_script(self) -> str:
        """The accuracy of every setting as a table, for pages where scripts are off."""
        rows = []
        for setting, run in self.data["runs"].items():
            method, images, temperature = setting.split("|")
            cells = [self.data["methods"][method]["label"], images, temperature]
            cells += [f"{100 * run['accuracy'][answer][0]:.1f}" if answer in run["accuracy"] else ""
                      for answer in self.data["answers"]]  # fmt: skip
            rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
        heads = ["Method", "Images a class", "T", *self.data["answers"].values()]
        head = "".join(f"<th>{escape(text)}</th>" for text in heads)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return (
            "<noscript><table><caption>Accuracy in percent, mean over seeds; with scripts switched "
            f"on, this is an explorer.</caption><tr>{head}</tr>{body}</table></noscript>"
        )


def _setting(record: dict) -> tuple[str, int, float | str]:
    """Method, training images a class, and temperature or ""."""
    objective, data = record["configuration"]["objective"], record["data"]
    soft = objective["teacher"] or objective["self_"]
    temperature = f"{objective['temperature']:g}" if soft else ""
    method = record["method"].split(" ")[0]
    return method, data["train images"] // data["classes"], temperature


def _check(groups: dict[tuple, list], methods: list, images: list, temperatures: list) -> None:
    """Every choice of the controls must have its records, of several seeds each."""
    if not temperatures:
        raise records.RecordError("the explorer needs methods with soft targets; no record has one")
    for method in methods:
        if method not in METHODS:
            raise records.RecordError(f"the explorer knows no method {method!r}")
        plain = all(key[2] == "" for key in groups if key[0] == method)
        for number, temperature in product(images, [""] if plain else temperatures):
            seeds = [record["seed"] for record in groups.get((method, number, temperature), [])]
            if len(seeds) < 2 or len(seeds) > len(set(seeds)):
                at = f" at T = {temperature}" if temperature else ""
                raise records.RecordError(
                    f"{method} with {number} images a class{at} has records of the seeds {seeds}; "
                    "the explorer needs several, each once"
                )


def _look(method: str, soft: bool) -> dict:
    style = METHODS[method]
    dash = DASHES.get(style.line) or " ".join(f"{3 * part}" for part in style.line[1])
    return {"label": style.label, "colour": style.colour, "dash": dash, "soft": soft}


def _summary(of_it: Sequence[dict], analyses: dict[str, dict]) -> dict:
    """One setting: means and intervals over its seeds, and the sample answers of the first."""
    tables = [records.answers(r["results"], r["cost"]["parameters"], r["cost"]["flops"])
              for r in of_it]  # fmt: skip
    for record in of_it:
        if record["weights sha256"] not in analyses:
            raise records.RecordError(
                f"there is no analysis of {record['method']}, seed {record['seed']}"
            )
    found = [analyses[record["weights sha256"]] for record in of_it]
    samples = {name: list(zip(kept["class"], kept["confidence"]))
               for name, kept in found[0]["samples"].items() if name != "place"}  # fmt: skip
    spans = {name: metrics.interval([table.accuracy[name] for table in tables]) for name in samples}
    summary = {
        "seeds": len(of_it),
        "accuracy": {n: [round(x, 4) for x in (s.mean, s.low, s.high)] for n, s in spans.items()},
        "samples": samples,
    }
    if "early exit" in found[0]:
        early = [one["early exit"] for one in found]
        full = of_it[0]["cost"]["flops"][-1]
        summary["early"] = {
            "accuracy": np.mean([one["accuracy"] for one in early], 0).round(4).tolist(),
            "cost": (np.mean([one["flops"] for one in early], 0) / full).round(4).tolist(),
        }
    return summary


def _png(pixels: Tensor) -> str:
    """One image, uint8 `[C, H, W]`, as an address that holds it."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy()).save(file, "PNG")
    return data_address(file.getvalue())


def _menu(name: str, part: str, label: str, options: dict[str, str], chosen: str) -> str:
    items = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>'
        f"{escape(text)}</option>"
        for value, text in options.items()
    )
    return (
        f'<div><label for="{name}">{label}</label>'
        f'<select id="{name}" data-part="{part}" autocomplete="off">{items}</select></div>'
    )


def _slider(name: str, part: str, label: str, values: Sequence, start: int) -> str:
    start = min(start, len(values) - 1)
    return (
        f'<div><label for="{name}">{label}: <output for="{name}">{values[start]}</output></label>'
        f'<input id="{name}" data-part="{part}" type="range" min="0" max="{len(values) - 1}" '
        f'value="{start}" autocomplete="off" {KEYS}></div>'
    )
