"""`make` installs once, and says in one sentence what keeps it from doing so."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import install
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def clone(tmp_path):
    """Return a folder with what the installation needs and no environment."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    return tmp_path


def make(folder, *arguments, **environment):
    """Run make in a folder."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    environment = {**os.environ, "MAKEFLAGS": "", **environment}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def sentences(result):
    """Return what a failed make says, without make's own last line."""
    assert result.returncode != 0 and "Traceback" not in result.stderr
    return [line for line in result.stderr.splitlines() if not line.startswith("make")]


def test_missing_python_is_one_sentence(clone):
    (sentence,) = sentences(make(clone, "test", "PYTHON=python3.99"))
    assert "There is no 'python3.99' here" in sentence and "PYTHON=python3.12" in sentence
    assert not (clone / ".venv").exists()


def test_a_failed_environment_is_not_taken_for_a_complete_one(clone):
    python = clone / "python"
    python.write_text("#!/bin/sh\nmkdir .venv\necho 'The reason.' >&2\nexit 1\n")
    python.chmod(0o755)
    for _ in range(2):  # it must try again
        assert sentences(
            make(
                clone,
                "book",
                f"PYTHON={python}",
            )
        ) == ["The reason."]
        shutil.rmtree(clone / ".venv")


def test_second_run_installs_nothing_until_the_packages_change(clone):
    stamp = clone / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.touch()
    assert make(clone, "--question", ".venv/.installed").returncode == 0
    assert "install.py" not in make(clone, "--dry-run", "test").stdout
    for name in ("requirements.lock", "pyproject.toml"):
        os.utime(stamp, (2, 2))
        for other in ("requirements.lock", "pyproject.toml"):
            os.utime(clone / other, (3, 3) if other == name else (1, 1))
        assert "install.py" in make(clone, "--dry-run", "test").stdout


def test_the_book_is_built_from_the_small_images_and_its_page_is_named(clone):
    tools = clone / ".venv" / "bin"
    tools.mkdir(parents=True)
    (clone / ".venv" / ".installed").touch()
    (tools / "python").symlink_to(sys.executable)
    (tools / "jupyter-book").write_text('#!/bin/sh\necho "$TSKD_PROFILE $ACCELERATE_USE_CPU $*"\n')
    (tools / "jupyter-book").chmod(0o755)
    built = make(clone, "book", TSKD_PROFILE="full")
    *_, command, last = built.stdout.splitlines()
    assert command == "quick true build . -n -W --keep-going --all"
    page = clone.resolve() / "_build" / "html" / "index.html"
    assert last == f"The book is ready. Open {page.as_uri()}"
    assert "build . -n -W" in make(clone, "--dry-run", "serve").stdout


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 9, 18), (3, 14, 0)])
def test_wrong_python_is_named(version):
    with pytest.raises(
        install.Problem, match="Python 3.10 to 3.13 is needed, but /x/python is"
    ) as e:
        install.check_python(version, "/x/python")
    assert ".".join(map(str, version)) in str(e.value) and "PYTHON=python3.12" in str(e.value)


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 13, 9)])
def test_supported_python_passes(version):
    install.check_python(version, "python")


def test_platforms_without_pytorch_are_named():
    with pytest.raises(install.Problem, match="Intel Macs"):
        install.check_platform("Darwin", "x86_64", 64)
    with pytest.raises(install.Problem, match="64-bit"):
        install.check_platform("Windows", "AMD64", 32)
    for system, machine in (("Darwin", "arm64"), ("Linux", "x86_64"), ("Windows", "AMD64")):
        install.check_platform(system, machine, 64)


def test_python_without_venv_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(install.Problem, match="cannot make virtual environments.*apt install"):
        install.check_venv_modules()


def test_full_disk_is_named_before_anything_is_made(monkeypatch, capsys, tmp_path):
    usage = namedtuple("usage", "total used free")
    needed = install.INSTALLED + 2 * install.DOWNLOADED
    monkeypatch.setattr(install, "device", lambda folder: 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, (needed + 0.1) * 1e9))
    install.check_space()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, (needed - 0.1) * 1e9))
    monkeypatch.setattr(install, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(install, "STAMP", str(tmp_path / ".venv" / ".installed"))
    monkeypatch.setattr(install, "run", lambda *command: pytest.fail("it started all the same"))
    assert install.main() == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert f"needs {needed:.1f} GB" in sentence and f"only {needed - 0.1:.1f} GB" in sentence
    assert not (tmp_path / ".venv").exists()


def test_a_program_that_cannot_be_started_is_named(capsys, tmp_path):
    with pytest.raises(install.Problem, match="it failed"):
        install.run("it failed", str(tmp_path / "no-python"))
    assert "no-python" in capsys.readouterr().err


def test_a_user_without_a_home_needs_no_room_there(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: "/nonexistent")
    monkeypatch.setattr(install, "INSTALLED", 0)
    monkeypatch.setattr(install, "DOWNLOADED", 0)
    install.check_space()


def test_failed_installation_is_one_sentence_and_leaves_no_stamp(monkeypatch, capfd, tmp_path):
    """A lock that cannot be installed: the environment is there, but does not count as complete."""
    (tmp_path / "requirements.lock").write_text("no-such-package-of-ours @ file:///nowhere\n")
    monkeypatch.setattr(install, "ROOT", str(tmp_path))
    monkeypatch.setattr(install, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(install, "STAMP", str(tmp_path / ".venv" / ".installed"))
    monkeypatch.setattr(install, "check_space", lambda: None)
    assert install.main() == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("The installation stopped")
    assert (tmp_path / ".venv").exists() and not (tmp_path / ".venv" / ".installed").exists()
