"""What a reader does with the book: begin, move, copy, search, print, read without scripts."""

import functools
import re
from pathlib import Path

import pytest

LAST = len(list((Path(__file__).parents[2] / "notebooks").glob("*.ipynb")))
WELCOME = "book/welcome.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_first_screen_shows_the_method_the_gains_and_the_way_in(visit, scheme):
    page = visit(WELCOME, color_scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    exits = page.locator("table.exits")
    assert exits.locator("thead th").all_inner_texts() == [
        "image", "exit 1", "exit 2", "exit 3", "exit 4", "vote"
    ]  # fmt: skip
    rows = exits.locator("tbody tr")
    assert rows.count() == 4 and rows.locator("img").count() == 4
    votes = rows.locator("td:last-child span")
    assert [vote.get_attribute("class") for vote in votes.all()] == 3 * ["right"] + ["wrong"]
    button = page.get_by_role("link", name="Start with chapter 1")
    gains = page.get_by_text("compare methods over several seeds")
    for part in (page.locator("article h1"), exits, button, gains):
        box = part.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 800
    button.click()
    page.wait_for_url("**/notebooks/01-quickstart.html")


def test_sliders_move_by_keyboard_and_mouse(visit, chapter):
    page = visit(chapter)
    sliders = page.locator("figure.tskd-slider")
    assert sliders.count() + page.locator(".tskd-explorer").count() >= 1
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


def test_explorer_follows_its_controls(visit):
    page = visit("notebooks/10-results.html")
    explorer = page.locator(".tskd-explorer")

    def seen():
        charts = [svg.inner_html() for svg in explorer.locator("svg").all()]
        return [explorer.locator("p").first.inner_text(), *charts,
                explorer.locator(".samples").inner_text()]  # fmt: skip

    def changes(act):
        before = seen()
        act()
        return [old != new for old, new in zip(before, seen())]

    def control(name):
        return explorer.locator("select, input").and_(explorer.get_by_label(name))

    # the sentence, every answer, against images, early exit, samples
    assert changes(lambda: control("Method").select_option("byot")) == [True] * 5
    assert changes(lambda: control("Answer").select_option("exit 1")) == [
        True, True, True, False, True]  # fmt: skip
    assert changes(lambda: control("Images a class").press("ArrowRight")) == [True] * 5
    assert changes(lambda: control("Temperature T").press("Home")) == [True] * 5
    threshold = control("Threshold")
    assert changes(lambda: threshold.press("End")) == [False, False, False, True, True]
    assert threshold.get_attribute("aria-valuetext") == "never"
    threshold.scroll_into_view_if_needed()
    box = threshold.bounding_box()
    click = functools.partial(page.mouse.click, box["x"] + 2, box["y"] + box["height"] / 2)
    assert changes(click) == [False, False, False, True, True]
    control("Method").select_option("kd")
    assert control("Answer").input_value() == "deepest" and threshold.is_disabled()
    control("Method").select_option("multi_exit")
    assert control("Temperature T").is_disabled()


def test_explorer_is_a_table_without_scripts(visit):
    page = visit("notebooks/10-results.html", java_script_enabled=False)
    assert page.locator("noscript table tr").count() > 40
    assert not page.locator(".tskd-explorer").is_visible()


def test_solutions_are_hidden_until_they_are_wanted(visit, chapter):
    page = visit(chapter)
    solutions = page.locator("div.solution.dropdown")
    assert solutions.count() >= 4
    first = solutions.first
    assert not first.locator(".cell").first.is_visible()
    first.locator("button.toggle-button").click()
    assert first.locator(".cell").first.is_visible()
    exercise = first.locator("p.admonition-title a")
    assert page.locator(exercise.get_attribute("href")).get_attribute("class").startswith("exerc")


def test_without_scripts_the_first_picture_and_all_texts_are_there(visit, chapter):
    page = visit(chapter, java_script_enabled=False)
    for slider in page.locator("figure.tskd-slider").all():
        frames = slider.locator("img")
        assert [frame.is_visible() for frame in frames.all()].count(True) == 1
        assert not slider.locator("input").is_visible()
        (words,) = slider.locator("noscript").all_inner_texts()
        for frame in frames.all():
            assert frame.get_attribute("alt") in words


def test_chapters_follow_each_other_and_have_a_table_of_contents(visit, chapter):
    page = visit(chapter)
    sections = page.locator("article > section > section > h2")
    assert page.locator(".page-toc > ul > li > a").count() == sections.count() >= 5
    number = int(chapter.split("/")[1][:2])
    for kind, other in (("left-prev", number - 1), ("right-next", number + 1)):
        target = page.locator(f"a.{kind}").get_attribute("href")
        expected = {0: "welcome", LAST + 1: "notation"}.get(other, f"{other:02}")
        assert re.fullmatch(rf"(\.\./book/)?{expected}[\w-]*\.html", target)


def test_copy_button_copies_the_cell(visit):
    page = visit("notebooks/01-quickstart.html", permissions=["clipboard-read", "clipboard-write"])
    cell = page.locator("div.cell_input").nth(1)
    cell.hover()
    cell.locator("button.copybtn").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == cell.locator("pre").inner_text().strip()


def test_theme_switch_changes_the_page(visit):
    page = visit(WELCOME)
    background = "getComputedStyle(document.body).backgroundColor"
    seen = {page.evaluate(background)}
    for _ in range(3):
        page.locator("button.theme-switch-button:visible").first.click()
        seen.add(page.evaluate(background))
    assert len(seen) == 2


@pytest.mark.parametrize(
    "words, page_title",
    [
        ("temperature", "Soft targets and temperature"),
        ("stop-gradient", "Notation and words"),
        ("early exit", "Notation and words"),
    ],
)
def test_search_finds(visit, words, page_title):
    page = visit(f"search.html?q={words}")
    page.locator("#search-results li a", has_text=page_title).first.wait_for()


def test_print_shows_the_chapter_and_its_solutions_only(visit):
    page = visit("notebooks/01-quickstart.html", color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    for gone in ("#pst-primary-sidebar", ".bd-sidebar-secondary", ".copybtn", ".headerlink"):
        assert not any(one.is_visible() for one in page.locator(gone).all())
    assert page.locator("article h1").is_visible()
    assert page.locator("div.solution .cell").first.is_visible()
    assert all(one.is_visible() for one in page.locator("details .sd-summary-content").all())
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for text in ("article h1", "article p", "article table td", "article pre span"):
        colour = page.locator(text).first.evaluate("one => getComputedStyle(one).color")
        assert colour == "rgb(0, 0, 0)", text
    assert len(page.pdf()) > 100_000
