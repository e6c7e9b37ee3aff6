"""Tests with other versions: the right command, and a failure in one sentence."""

import re
import subprocess

import pytest
import run_with_versions


@pytest.fixture
def commands(monkeypatch):
    """Return the commands that would have been run."""
    seen = []

    def run(command, **_):
        seen.append([str(word) for word in command])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(run_with_versions.subprocess, "run", run)
    return seen


@pytest.mark.parametrize(
    ("versions", "resolution"), [("lowest", "lowest-direct"), ("newest", "highest")]
)
def test_it_makes_an_environment_and_tests_in_it(commands, versions, resolution):
    assert run_with_versions.main([versions]) == 0
    create, install, test = commands
    home = run_with_versions.ROOT / f".venv-{versions}"
    assert "--clear" in create and create[-1] == str(home)
    assert install[install.index("--resolution") + 1] == resolution
    assert install[-2:] == ["--editable", ".[book,test,dev]"]
    assert test == [str(home / "bin" / "python"), "-m", "pytest", "--nbval"]


def test_arguments_go_to_pytest(commands):
    assert run_with_versions.main(["lowest", "tests/test_losses.py", "-x"]) == 0
    assert commands[-1][2:] == ["pytest", "tests/test_losses.py", "-x"]


@pytest.mark.parametrize("wrong", [[], ["oldest"]])
def test_unknown_versions_are_one_sentence(commands, wrong, capsys):
    assert run_with_versions.main(wrong) == 2 and commands == []
    assert capsys.readouterr().err == "Name the versions: lowest or newest\n"


def test_a_failed_installation_is_one_sentence(monkeypatch, capsys):
    def fail(*_):
        raise subprocess.CalledProcessError(1, ["uv"])

    monkeypatch.setattr(run_with_versions, "make_environment", fail)
    assert run_with_versions.main(["newest"]) == 1
    assert re.fullmatch(r"The newest versions could not .*\n", capsys.readouterr().err)
