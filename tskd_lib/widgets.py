"""A slider over pictures that needs no kernel, no network and no library in the browser.

The pictures are drawn beforehand and travel inside the page. The slider is the browser's own, so
it works with the mouse, a finger and the keyboard; each picture has a text for who cannot see it.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from html import escape

from matplotlib.figure import Figure

DPI = 100  # of the page; the pictures have twice as many, for sharp screens
COLOURS = 128  # keeps a notebook below half a megabyte
KEYS = 'data-lm-suppress-shortcuts="true"'  # else JupyterLab takes the arrow keys for itself
SHOW = (
    "const box = this.closest('figure');"
    "const frames = [...box.querySelectorAll('[data-value]')];"
    "frames.forEach((frame, i) => {frame.hidden = i != this.value});"
    "const value = frames[this.value].dataset.value;"
    "this.setAttribute('aria-valuetext', value);"
    "box.querySelector('output').textContent = value"
)


class Slider:
    """One picture at a time, chosen with a slider; shown as the last line of a cell.

    Args:
        label: what the slider changes, with its unit, for example "Temperature T".
        frames: by the value that they show, a figure and the text that stands for it. All
            figures have one size, so that nothing jumps.
        start: position of the first picture shown, from 0.
        caption: a sentence below the pictures.

    Raises:
        ValueError: there are fewer than two frames, no such start, or figures of several sizes.
    """

    def __init__(
        self,
        label: str,
        frames: Mapping[object, tuple[Figure, str]],
        start: int = 0,
        caption: str = "",
    ):
        sizes = {tuple(figure.get_size_inches()) for figure, _ in frames.values()}
        if len(frames) < 2 or len(sizes) != 1:
            raise ValueError(
                f"got {len(frames)} frames of {len(sizes)} sizes: give two or more of one size"
            )
        if not 0 <= start < len(frames):
            raise ValueError(f"got start={start} for {len(frames)} frames")
        self.label, self.start, self.caption = label, start, caption
        self.texts = {str(value): text for value, (_, text) in frames.items()}
        self.pictures = [_png(figure) for figure, _ in frames.values()]
        self.width, self.height = (round(DPI * inches) for inches in sizes.pop())

    def __repr__(self) -> str:
        """The texts that stand for the pictures, where HTML cannot be shown."""
        lines = [f"{self.label} {value}: {text}" for value, text in self.texts.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        texts = [escape(f"{value}: {text}") for value, text in self.texts.items()]
        frames = [
            f'<img data-value="{escape(value)}" alt="{text}" width="{self.width}" '
            f'height="{self.height}" style="max-width: 100%; height: auto" '
            f'src="{picture}"{"" if i == self.start else " hidden"}>'
            for i, (value, text, picture) in enumerate(zip(self.texts, texts, self.pictures))
        ]
        words = "".join(f"<li>{text}</li>" for text in texts)
        first = escape(list(self.texts)[self.start])
        name = "slider-" + hashlib.sha256("".join([self.label, *frames]).encode()).hexdigest()[:8]
        return (
            '<figure class="tskd-slider" style="margin: 1em 0">'
            f'<label for="{name}">{escape(self.label)}: <output for="{name}">{first}</output>'
            f'</label><br><input id="{name}" type="range" min="0" max="{len(frames) - 1}" '
            f'value="{self.start}" aria-valuetext="{first}" autocomplete="off" {KEYS} '
            f'style="width: min(100%, {self.width}px)" oninput="{SHOW}">'
            f"<div>{''.join(frames)}</div>"
            f"<figcaption>{escape(self.caption)}</figcaption>"
            f"<noscript>The slider needs scripts. What it shows:<ul>{words}</ul></noscript>"
            "</figure>"
        )


def _png(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=2 * DPI)
    return data_address(smaller_png(file.getvalue()))


def data_address(content: bytes) -> str:
    """A PNG file as an address that holds the file itself, for a page without other files."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def smaller_png(content: bytes) -> bytes:
    """A picture in the file format PNG with a palette of `COLOURS`: about a third of the bytes.

    The palette's colours are spread over all that occur, so that small grey images stay grey
    beside large coloured areas.
    """
    from PIL import Image

    picture = Image.open(io.BytesIO(content)).convert("RGB")
    picture = picture.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    return small.getvalue()
