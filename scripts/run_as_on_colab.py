"""Run notebooks as Colab would: its versions, an empty folder, and no copy of this repository.

    python scripts/run_as_on_colab.py [01-quickstart ...]

Makes the environment `.venv-colab` with Python 3.11 or 3.12 and the versions of tests/colab.txt;
its first run downloads some gigabytes. A notebook's first cell then installs the library itself,
from the last commit of this repository in place of its public address. Without names, all
notebooks run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from run_with_versions import make_environment
from set_repository import current

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".venv-colab"
PYTHON = HOME / "bin" / "python"
VERSIONS = ROOT / "tests" / "colab.txt"


def prepare() -> None:
    """Make the environment, unless it holds these versions already."""
    done = HOME / "installed.txt"
    if done.exists() and done.read_text("utf-8") == VERSIONS.read_text("utf-8"):
        return
    make_environment(HOME, ">=3.11,<3.13", "-r", str(VERSIONS))
    shutil.copy(VERSIONS, done)


def run(notebook: Path) -> None:
    """Execute one notebook in an empty folder, where the library is not installed yet."""
    uninstall = ["-m", "pip", "uninstall", "--quiet", "--yes", "tskd-lib"]
    subprocess.run([PYTHON, *uninstall], check=True, stderr=subprocess.DEVNULL)
    git = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/" + "/".join(current(ROOT)),
    }
    execute = ["-m", "jupyter", "execute", "--timeout=900", "--kernel_name=python3"]
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(notebook, folder)
        environment = {
            **os.environ,
            **git,
            "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",
        }
        subprocess.run([PYTHON, *execute, copy], cwd=folder, env=environment, check=True)


def main(names: list[str]) -> int:
    """Run the named notebooks, or all; 1 where one fails."""
    known = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    if not set(names) <= set(known):
        print(f"Name some of the notebooks: {', '.join(known)}", file=sys.stderr)
        return 2
    failed = []
    try:
        prepare()
    except subprocess.CalledProcessError:
        print("Colab's versions could not be installed; the reason stands above", file=sys.stderr)
        return 1
    for name in names or known:
        start = time.monotonic()
        try:
            run(known[name])
        except subprocess.CalledProcessError:
            failed.append(name)
        verdict = "failed" if name in failed else "ran"
        print(f"{name} {verdict} in {time.monotonic() - start:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the environment stays, and the notebooks here are as they were.")
