"""The built files: links, buttons, previews, and the picture drawn from another."""

import html.parser
import io
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
OWNER, NAME = CONFIG["repository"]["url"].split("/")[-2:]


class Links(html.parser.HTMLParser):
    """Collect the targets and the names of a page."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.names = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.names |= {attributes.get("id"), attributes.get("name")}
        for key in ("href", "src"):
            if attributes.get(key):
                self.targets.append(attributes[key])


def test_no_link_inside_the_book_is_broken(book):
    pages = {path: Links(path.read_text("utf-8")) for path in book.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        if path.parent.name == "_static":
            continue
        for target in page.targets:
            parts = urlparse(target)
            if parts.scheme or parts.netloc or target.startswith("#!"):
                continue
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            wanted = unquote(parts.fragment)
            if place.is_dir():
                place = place / "index.html"
            known = not wanted or place not in pages or wanted in pages[place].names
            if not place.exists() or not known:
                broken.append((path.name, target))
    assert broken == []


def test_buttons_lead_to_this_chapter_on_colab_and_as_a_file(book, chapter):
    text, notebook = (book / chapter).read_text("utf-8"), chapter.replace(".html", ".ipynb")
    colab = "https://colab.research.google.com/github/"
    assert f'href="{colab}{OWNER}/{NAME}/blob/main/{notebook}"' in text
    assert f"_sources/{notebook}" in text
    assert (book / "_sources" / notebook).exists()


def test_executed_pages_that_are_no_notebooks_have_no_button_to_colab(book):
    for page in ("status", "extending", "welcome"):
        text = (book / "book" / f"{page}.html").read_text("utf-8")
        assert "https://colab.research.google.com/github/" not in text


def test_a_shared_page_has_a_title_a_description_and_a_picture(book, chapter):
    text = (book / chapter).read_text("utf-8")
    tags = dict(re.findall(r'<meta property="og:([^"]+)" content="([^"]+)"', text))
    site = f"https://{OWNER.lower()}.github.io/{NAME}/"
    assert tags["site_name"] == CONFIG["title"] and tags["url"] == site + chapter
    assert f"<h1>{tags['title']}<" in text and len(tags["description"]) > 60
    assert tags["image"].startswith(site)
    with Image.open(book / tags["image"].removeprefix(site)) as picture:
        assert picture.width >= 1000 and picture.height >= 500
    assert f'<link rel="canonical" href="{site}{chapter}"' in text


def test_small_picture_of_the_previews_is_the_favicon(browser):
    assets = ROOT / "book" / "assets"
    with Image.open(assets / "favicon.png") as picture:
        committed = np.asarray(picture.convert("RGBA"), float)
    page = browser.new_page(viewport={"width": 256, "height": 256})
    style = "<style>* { margin: 0 } svg { display: block; width: 256px }</style>"
    page.set_content(style + (assets / "favicon.svg").read_text("utf-8"))
    drawn = Image.open(io.BytesIO(page.screenshot(omit_background=True))).convert("RGBA")
    page.close()
    assert np.abs(np.asarray(drawn, float) - committed).mean() < 2
