"""The notebooks' way to Colab: the first cell finds the library, and a failure is one sentence."""

import re
from pathlib import Path

import pytest
import run_as_on_colab

ROOT = Path(__file__).resolve().parents[1]


def test_the_first_cell_installs_from_the_address_that_is_redirected(monkeypatch):
    seen = []
    monkeypatch.setattr(run_as_on_colab.subprocess, "run", lambda *a, **k: seen.append((a, k)))
    notebook = ROOT / "notebooks" / "01-quickstart.ipynb"
    run_as_on_colab.run(notebook)
    environment = seen[-1][1]["env"]
    (address,) = set(re.findall(r"git\+(https://[\w./-]+)", notebook.read_text("utf-8")))
    assert environment["GIT_CONFIG_VALUE_0"] == address
    assert environment["GIT_CONFIG_KEY_0"] == f"url.{ROOT.as_uri()}.insteadOf"
    folder = Path(seen[-1][1]["cwd"])
    assert folder != ROOT and seen[-1][0][0][-1] == str(folder / notebook.name)


def test_unknown_notebook_is_one_sentence(capsys):
    assert run_as_on_colab.main(["10-nothing"]) == 2
    assert re.fullmatch(r"Name some of the notebooks: 01-quickstart, .*\n", capsys.readouterr().err)


def test_a_failed_installation_is_one_sentence(monkeypatch, capsys):
    def fail():
        raise run_as_on_colab.subprocess.CalledProcessError(1, ["uv"])

    monkeypatch.setattr(run_as_on_colab, "prepare", fail)
    assert run_as_on_colab.main([]) == 1
    assert "could not be installed" in capsys.readouterr().err


@pytest.mark.parametrize("broken", [[], ["01-quickstart"]])
def test_a_notebook_that_fails_is_named_and_the_others_still_run(monkeypatch, capsys, broken):
    def run(path):
        if path.stem in broken:
            raise run_as_on_colab.subprocess.CalledProcessError(1, ["jupyter"])

    monkeypatch.setattr(run_as_on_colab, "prepare", lambda: None)
    monkeypatch.setattr(run_as_on_colab, "run", run)
    names = ["01-quickstart", "02-data-and-baseline"]
    assert run_as_on_colab.main(names) == len(broken)
    words = ["failed" if name in broken else "ran" for name in names]
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        list(pair) for pair in zip(names, words)
    ]
