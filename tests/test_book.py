"""The built book in a real browser: nothing from elsewhere, sliders that move, formulas, links.

The pages are built from the committed outputs, without executing anything. The tests of the
browser need Chromium: on Debian, `apt install chromium`.
"""

import functools
import html.parser
import http.server
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
PAGES = [f"notebooks/{name}.html" for name in CHAPTERS]
PAGES += [f"book/{p.stem}.html" for p in sorted((ROOT / "book").glob("*.md"))]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
NOISE = {  # of the theme and of sphinx-thebe, on every page
    "Got invalid theme mode: . Resetting to auto.",
    "Identifier 'THEBE_JS_URL' has already been declared",
}
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
QUIET += " --disable-background-networking --disable-component-update"


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder of the built pages."""
    pytest.importorskip("jupyter_book", reason="jupyter-book is not installed")
    folder = tmp_path_factory.mktemp("book")
    for name in ("book", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("runs", "data"))
    shutil.copy(ROOT / "_toc.yml", folder)
    config = (ROOT / "_config.yml").read_text("utf-8")
    assert config.count("execute_notebooks: force") == 1
    config = config.replace("execute_notebooks: force", 'execute_notebooks: "off"')
    (folder / "_config.yml").write_text(config, "utf-8")
    code = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    build = [sys.executable, "-c", code, "build", ".", "-n", "-W", "--keep-going"]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "_build" / "html"


@pytest.fixture(scope="session")
def address(book):
    """Where the pages are served."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(book))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=QUIET.split())
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, address):
    """A function that opens a page of the book with everything outside of it blocked."""
    contexts = []

    def go(name, width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.outside, page.errors = [], []

        def route(one):
            inside = one.request.url.startswith((address, "data:", "blob:"))
            if not inside:
                page.outside.append(one.request.url)
            return one.continue_() if inside else one.abort()

        page.route("**/*", route)
        page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(address + name, wait_until="load")
        if page.locator(".math").count():
            page.wait_for_function("window.MathJax?.startup?.promise")
            page.evaluate("window.MathJax.startup.promise")
        return page

    yield go
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", PAGES)
def test_page_needs_nothing_from_elsewhere_and_has_no_error(visit, name):
    page = visit(name)
    assert page.outside == [] and set(page.errors) <= NOISE


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_page_does_not_scroll_sideways(visit, name, width):
    page = visit(name, width)
    content = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(content) <= 1


@pytest.mark.parametrize("name", PAGES)
def test_every_formula_is_rendered(visit, name):
    page = visit(name)
    formulas = page.locator(".math")
    assert page.locator(".math mjx-container").count() >= formulas.count()
    assert page.locator("mjx-merror").count() == 0


@pytest.mark.parametrize("name", CHAPTERS)
def test_sliders_move_by_keyboard_and_mouse(visit, name):
    page = visit(f"notebooks/{name}.html")
    sliders = page.locator("figure.tskd-slider")
    assert sliders.count() >= 1
    for slider in sliders.all():
        handle, value = slider.locator("input[type=range]"), slider.locator("output")
        frames = slider.locator("img")
        texts = [frame.get_attribute("alt") for frame in frames.all()]
        assert len(texts) >= 4 and len(set(texts)) == len(texts) and all(texts)
        assert page.get_by_label(slider.locator("label").inner_text()).count() >= 1

        def shown(frames=frames):
            seen = [frame.get_attribute("alt") for frame in frames.all() if frame.is_visible()]
            assert len(seen) == 1
            return seen[0]

        handle.focus()
        handle.press("Home")
        assert shown() == texts[0]
        first = value.inner_text()
        for text in texts[1:]:
            handle.press("ArrowRight")
            assert shown() == text
        assert value.inner_text() != first == frames.first.get_attribute("data-value")
        assert handle.get_attribute("aria-valuetext") == value.inner_text()
        handle.scroll_into_view_if_needed()
        box = handle.bounding_box()
        page.mouse.click(box["x"] + 2, box["y"] + box["height"] / 2)
        assert shown() == texts[0]


@pytest.mark.parametrize("name", CHAPTERS)
def test_solutions_are_hidden_until_they_are_wanted(visit, name):
    page = visit(f"notebooks/{name}.html")
    solutions = page.locator("div.solution.dropdown")
    assert solutions.count() >= 4
    first = solutions.first
    assert not first.locator(".cell").first.is_visible()
    first.locator("button.toggle-button").click()
    assert first.locator(".cell").first.is_visible()


def test_theme_switch_changes_the_page(visit):
    page = visit("book/welcome.html")
    background = "getComputedStyle(document.body).backgroundColor"
    seen = {page.evaluate(background)}
    for _ in range(3):
        page.locator("button.theme-switch-button:visible").first.click()
        seen.add(page.evaluate(background))
    assert len(seen) == 2


def test_search_finds_a_word_of_the_book(visit):
    page = visit("search.html?q=temperature")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").all_inner_texts()
    assert any("Soft targets" in title for title in found) or len(found) >= 3


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


@pytest.mark.parametrize("name", CHAPTERS)
def test_buttons_lead_to_this_chapter_on_colab_and_as_a_file(book, name):
    text = (book / "notebooks" / f"{name}.html").read_text("utf-8")
    (repository,) = re.findall(r"^  url: https://github.com/(\S+)$",
                               (ROOT / "_config.yml").read_text("utf-8"), re.MULTILINE)  # fmt: skip
    colab = "https://colab.research.google.com/github/"
    assert f'href="{colab}{repository}/blob/main/notebooks/{name}.ipynb"' in text
    assert f"_sources/notebooks/{name}.ipynb" in text
    for page in ("status", "extending"):  # executed, but no notebooks
        assert colab not in (book / "book" / f"{page}.html").read_text("utf-8")
    assert (book / "_sources" / "notebooks" / f"{name}.ipynb").exists()
