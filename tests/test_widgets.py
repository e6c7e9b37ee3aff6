"""The slider: what the browser gets, and what it shows when the slider moves."""

import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from tskd_lib.theme import CELLS
from tskd_lib.widgets import Slider


def figure(value, width=4.0):
    drawn, axes = plt.subplots(figsize=(width, 2.0))
    axes.plot([0, value], [0, 1])
    plt.close(drawn)
    return drawn


@pytest.fixture
def slider():
    frames = {value: (figure(value), f'line to "{value}" < 9') for value in (1, 2, 4)}
    return Slider("Temperature T", frames, start=1, caption="A line & its end.")


def test_page_holds_every_picture_with_its_text(slider):
    page = slider._repr_html_()
    pictures = re.findall(r"base64,([^\"]+)", page)
    assert len(set(pictures)) == 3
    for picture in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (800, 400)
    assert page.count('width="400" height="200"') == 3  # half as many pixels of the page
    assert re.findall(r'alt="(.*?)"', page) == [
        f"{value}: line to &quot;{value}&quot; &lt; 9" for value in (1, 2, 4)
    ]
    assert "A line &amp; its end." in page
    assert "http" not in page and "<script" not in page


def test_slider_is_named_and_only_its_start_is_shown(slider):
    page = slider._repr_html_()
    name = re.search(r'<input id="([^"]+)"', page)[1]
    assert f'<label for="{name}">Temperature T: ' in page
    assert 'min="0" max="2" value="1" aria-valuetext="2"' in page
    # JupyterLab leaves the arrow keys to elements with this attribute
    assert re.search(r"<input [^>]*data-lm-suppress-shortcuts=\"true\"", page)
    assert [" hidden>" in tag for tag in re.findall(r"<img .*?>", page)] == [True, False, True]


def test_grey_images_stay_grey_beside_large_coloured_areas():
    drawn, (digit, heat) = plt.subplots(1, 2, width_ratios=(1, 9), figsize=(6, 3))
    digit.imshow(np.arange(16).reshape(4, 4), cmap="gray")
    heat.imshow(np.arange(4096).reshape(64, 64), cmap=CELLS, aspect="auto")
    plt.close(drawn)
    page = Slider("Image", {1: (drawn, "one"), 2: (drawn, "two")})._repr_html_()
    content = base64.b64decode(re.search(r"base64,([^\"]+)", page)[1])
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    box = digit.get_window_extent().transformed(drawn.dpi_scale_trans.inverted()).extents * 200
    left, bottom, right, top = box.round().astype(int)
    pixels = picture[len(picture) - top : len(picture) - bottom, left:right]
    greys = pixels[:, :, 0]
    assert greys.min() < 16 and greys.max() > 240
    assert np.ptp(pixels, axis=2).max() <= 16


def test_two_sliders_of_a_page_do_not_share_a_name(slider):
    other = Slider("Temperature T", {v: (figure(v), "x") for v in (1, 3)})
    names = [re.search(r' id="([^"]+)"', one._repr_html_())[1] for one in (slider, other)]
    assert names[0] != names[1] and slider._repr_html_() == slider._repr_html_()


def test_without_scripts_every_text_is_there(slider):
    (words,) = re.findall("<noscript>(.*?)</noscript>", slider._repr_html_())
    assert re.findall("<li>(.*?)</li>", words) == [
        f"{value}: line to &quot;{value}&quot; &lt; 9" for value in (1, 2, 4)
    ]


def test_text_stands_in_for_the_pictures(slider):
    assert repr(slider).splitlines()[2] == 'Temperature T 4: line to "4" < 9'


def test_wrong_frames_are_refused():
    one = {1: (figure(1), "x")}
    with pytest.raises(ValueError, match="got 1 frames"):
        Slider("T", one)
    with pytest.raises(ValueError, match="of 2 sizes"):
        Slider("T", one | {2: (figure(2, 5.0), "x")})
    with pytest.raises(ValueError, match="start=2 for 2 frames"):
        Slider("T", one | {2: (figure(2), "x")}, start=2)
