"""Every example on the page about extending the library runs, alone and in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "book" / "extending.md"
SECTIONS = dict(
    re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
)


def test_the_page_has_its_four_examples():
    assert list(SECTIONS) == ["A backbone", "A loss term", "A data set", "A voting rule"]


@pytest.mark.parametrize("name", SECTIONS)
def test_the_example_runs_and_checks_itself(name):
    blocks = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", SECTIONS[name], re.M | re.S)
    code = "\n".join(blocks)
    assert "assert " in code and "print(" in code and "tskd_lib" in code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr[-2000:]
