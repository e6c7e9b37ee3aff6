"""The built book and a browser that shows it.

The chapters keep their committed outputs; only the pages in `book/` are executed. The browser is
Chromium: on Debian, `apt install chromium`.
"""

import functools
import gzip
import http.server
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = [f"notebooks/{path.stem}.html" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
PAGES = CHAPTERS + [f"book/{path.stem}.html" for path in sorted((ROOT / "book").glob("*.md"))]
PAGES += ["search.html", "genindex.html"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
QUIET += " --disable-background-networking --disable-component-update"
JUMPS = """
window.jumps = 0;
new PerformanceObserver((list) => {
  for (const jump of list.getEntries()) if (!jump.hadRecentInput) window.jumps += jump.value;
}).observe({type: "layout-shift", buffered: true});
"""


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder of the built pages."""
    pytest.importorskip("jupyter_book", reason="jupyter-book is not installed")
    folder = tmp_path_factory.mktemp("book")
    for name in ("book", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("runs", "data"))
    shutil.copy(ROOT / "_toc.yml", folder)
    config = (ROOT / "_config.yml").read_text("utf-8")
    assert config.count("\nexecute:\n") == 1
    config = config.replace("\nexecute:\n", '\nexecute:\n  exclude_patterns: ["notebooks/*"]\n')
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


@pytest.fixture(scope="session")
def go(browser, address):
    """A function that opens a page of the book with everything outside of it blocked."""

    def go(name, width=1280, **options):
        options = {"reduced_motion": "reduce", "color_scheme": "light"} | options
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        context.set_default_timeout(120_000)  # ms, for a busy machine
        context.add_init_script(JUMPS)
        page = context.new_page()
        page.outside, page.errors, page.loaded = [], [], {}

        def route(one):
            inside = one.request.url.startswith((address, "data:", "blob:"))
            if not inside:
                page.outside.append(one.request.url)
            return one.continue_() if inside else one.abort()

        page.route("**/*", route)
        page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("response", lambda one: page.loaded.update({one.url: one}))
        page.goto(address + name, wait_until="load")
        if options.get("java_script_enabled", True) and page.locator(".math").count():
            page.wait_for_function("window.MathJax?.startup?.promise")
            page.evaluate("window.MathJax.startup.promise")
        return page

    return go


@pytest.fixture
def visit(go):
    """As `go`, and closed after the test."""
    pages = []

    def visit(*arguments, **options):
        pages.append(go(*arguments, **options))
        return pages[-1]

    yield visit
    for page in pages:
        page.context.close()


@pytest.fixture(scope="module", params=PAGES)
def page(request, go):
    """Every page in turn, opened once for all tests that only look."""
    opened = go(request.param)
    opened.name = request.param
    yield opened
    opened.context.close()


@pytest.fixture(scope="module", params=PAGES)
def phone(request, go):
    """Every page in turn, 360 pixels wide."""
    opened = go(request.param, width=360)
    yield opened
    opened.context.close()


@pytest.fixture(params=CHAPTERS)
def chapter(request):
    """The path of every chapter in turn."""
    return request.param


@pytest.fixture
def weight(address):
    """A function: bytes, compressed, of what a page has loaded."""

    def weigh(page):
        served = [one for url, one in page.loaded.items() if url.startswith(address)]
        return sum(len(gzip.compress(one.body())) for one in served)

    return weigh
