"""The foot of a page says when it was executed, and only where it was."""

import datetime
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = """---
file_format: mystnb
kernelspec: {{display_name: Python 3, language: python, name: python3}}
---
# A page
```{{code-cell}} ipython3
assert {condition}
```
## Table
```{{nb-exec-table}}
```
"""


def built(folder, mode, condition):
    """Return the text of a page whose only cell asserts the condition."""
    pytest.importorskip("myst_nb", reason="the packages of the book are not installed")
    (folder / "index.md").write_text(PAGE.format(condition=condition), "utf-8")
    extensions = "extensions=myst_nb,sphinx_executed"
    settings = [extensions, f"nb_execution_mode={mode}", "html_theme=basic"]
    options = [option for setting in settings for option in ("-D", setting)]
    command = [sys.executable, "-m", "sphinx", "-q", "-C", *options, ".", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "book")}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return re.sub("<[^>]*>", "", (folder / "out" / "index.html").read_text("utf-8"))


def test_an_executed_page_names_the_day_and_the_version(tmp_path):
    before = datetime.datetime.now(datetime.timezone.utc).date()
    text = built(tmp_path, "force", True)
    after = datetime.datetime.now(datetime.timezone.utc).date()
    day, version = re.search(r"Last executed with success: (\S+), torch (\S+)\.\s", text).groups()
    assert before <= datetime.date.fromisoformat(day) <= after
    assert version == metadata.version("torch")
    assert "Last verified" in text and "✅" in text


@pytest.mark.parametrize(("mode", "condition"), [("off", True), ("force", False)])
def test_a_page_that_was_not_executed_or_failed_says_nothing(tmp_path, mode, condition):
    text = built(tmp_path, mode, condition)
    assert "A page" in text and "Last executed" not in text
    assert "✅" not in text
