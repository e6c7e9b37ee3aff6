"""Mend what the theme and the notebooks' outputs leave to wish for in the built pages."""

import re
from pathlib import Path

from PIL import Image

# 540 KB for drawing icons that the theme's fonts draw already
ICON_SCRIPT = re.compile(r'\s*<script src="[^"]*/fontawesome\.js[^"]*"></script>')
PICTURE = re.compile(r'<img (?![^>]*\b(?:width|style)=)(?=[^>]*\bsrc="([^":]+\.png)")')
STYLED = re.compile(r'style="width: (\d+)px; height: (\d+)px;"')  # keeps no proportions


def mended(page: str, folder: Path) -> str:
    """A page from this folder without the icons' script, with sizes, and with roles that hold."""

    def sized(found: re.Match) -> str:
        with Image.open(folder / found[1]) as picture:
            return '<img width="{}" height="{}" '.format(*picture.size)

    page = ICON_SCRIPT.sub("", page)
    page = STYLED.sub(r'width="\1" height="\2"', page)
    page = PICTURE.sub(sized, page)  # the browser keeps the place free, so that nothing jumps
    page = page.replace('role="doc-biblioentry"', 'role="listitem"')  # the first is deprecated
    return page.replace("<th></th>", "<td></td>")  # pandas leaves corners empty: no headers


def mend(app, exception):
    """Mend every page once all are written."""
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            page = path.read_text("utf-8")
            after = mended(page, path.parent)
            if after != page:
                path.write_text(after, "utf-8")


def setup(app):
    """Register the hook with Sphinx."""
    app.connect("build-finished", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
