"""Every page in a browser: nothing from elsewhere, quick, legible, open to everybody."""

import pytest

NOISE = {  # of sphinx-thebe, on every page
    "Identifier 'THEBE_JS_URL' has already been declared",
}
BACKGROUNDS = """
[...document.querySelectorAll("article img:not(.tskd-explorer img)")].map((img) => {
  const style = getComputedStyle(img);
  return [img.alt, style.backgroundColor, style.filter];
})
"""
STRETCHED = """
[...document.querySelectorAll("article img")].filter((img) => img.offsetWidth).map((img) => {
  const box = img.getBoundingClientRect();
  return [img.alt, (box.width / box.height) / (img.naturalWidth / img.naturalHeight)];
})
"""
MOVING = """
[...document.querySelectorAll("*")].filter((one) => {
  const style = getComputedStyle(one);
  return style.scrollBehavior == "smooth" || style.animationName != "none"
    || style.transitionDuration.split(", ").some((time) => parseFloat(time) > 0);
}).map((one) => one.outerHTML.slice(0, 100))
"""


def sideways(page):
    """How many pixels the page can be scrolled sideways."""
    return page.evaluate("(root => root.scrollWidth - root.clientWidth)(document.documentElement)")


def test_page_needs_nothing_from_elsewhere_and_has_no_error(page):
    assert page.outside == [] and set(page.errors) <= NOISE


def test_page_does_not_scroll_sideways(page):
    assert sideways(page) <= 1


def test_page_does_not_scroll_sideways_on_a_phone(phone):
    assert sideways(phone) <= 1


def jumps(page):
    """How far the page jumps while it loads; loaded once more if much, as a machine can be busy."""
    if page.evaluate("window.jumps") >= 0.1:
        page.reload(wait_until="load")
        page.wait_for_timeout(1000)
    return page.evaluate("window.jumps")


def test_nothing_jumps_while_the_page_loads(page):
    assert jumps(page) < 0.1


def test_nothing_jumps_on_a_phone(phone):
    assert jumps(phone) < 0.1


def test_page_is_small(page, weight):
    assert 10_000 < weight(page) < 1_500_000


def test_every_formula_is_rendered(page):
    formulas = page.locator(".math")
    assert page.locator(".math mjx-container").count() >= formulas.count()
    assert page.locator("mjx-merror").count() == 0


def test_every_picture_has_a_text_and_a_size(page):
    for picture in page.locator("article img").all():
        text = picture.get_attribute("alt")
        assert text and len(text.split()) >= 3 and not text.endswith((".png", ".svg")), text
        sized = "one => one.hasAttribute('width') && one.hasAttribute('height') || one.style.width"
        assert picture.evaluate(sized), text


def test_pictures_keep_their_proportions(page):
    for text, stretched in page.evaluate(STRETCHED):
        assert stretched == pytest.approx(1, abs=0.03), text


def test_pictures_keep_their_proportions_on_a_phone(phone):
    for text, stretched in phone.evaluate(STRETCHED):
        assert stretched == pytest.approx(1, abs=0.03), text


def test_pictures_stay_on_white_in_the_dark(page):
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    for text, background, effect in page.evaluate(BACKGROUNDS):
        if not text.startswith("A scan of"):  # these are white on black, and fill their place
            assert background == "rgb(255, 255, 255)" and effect == "none", text


def test_nothing_moves_for_who_wants_no_motion(page):
    assert page.evaluate(MOVING) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_barrier(page, theme):
    from axe_playwright_python.sync_playwright import Axe

    options = {"resultTypes": ["violations"], "preload": False}
    if theme == "dark":  # else the pages are the same
        options["runOnly"] = ["color-contrast"]
    page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
    found = Axe().run(page, options=options).response["violations"]
    assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found] == []
