"""The README's numbers are those of the committed records."""

import update_readme


def test_the_tables_are_up_to_date():
    text = update_readme.README.read_text("utf-8")
    assert text == update_readme.filled(text), "run: python scripts/update_readme.py"


def test_both_tables_are_there():
    text = update_readme.README.read_text("utf-8")
    for method in ("baseline", "kd", "multi_exit", "byot", "tskd"):
        assert f"| {method} |" in text
    assert "TSKD step / plain step" in text
