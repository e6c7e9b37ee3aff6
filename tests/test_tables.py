"""The tables of the README and of the book's pages are those of the records and notebooks."""

import pytest
import update_tables


@pytest.mark.parametrize("page", update_tables.PAGES, ids=lambda page: page.stem)
def test_the_tables_are_up_to_date(page):
    text = page.read_text("utf-8")
    assert text == update_tables.filled(text), "run: python scripts/update_tables.py"


def test_every_table_is_on_a_page():
    text = "".join(page.read_text("utf-8") for page in update_tables.PAGES)
    for name in update_tables.TABLES:
        assert text.count(f"<!-- {name}:begin -->") == text.count(f"<!-- {name}:end -->") == 1
    for method in ("baseline", "kd", "multi_exit", "byot", "tskd"):
        assert f"| {method} |" in text
    assert "TSKD step / plain step" in text and "](../notebooks/01-quickstart.ipynb)**" in text
