"""Run the tests with the lowest or the newest versions that pyproject.toml admits.

    python scripts/run_with_versions.py lowest|newest [arguments of pytest]

Makes the environment `.venv-lowest` or `.venv-newest` anew with uv, and needs 7 GB for it. Python
is the one that runs this script; the tests are those of `make test`, unless arguments say else.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}


def make_environment(home: Path, python: str, *requirements: str) -> Path:
    """Make an environment with these requirements in place of what was there; its Python."""
    executable = home / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    create = [*uv, "venv", "--quiet", "--clear", "--python", python, str(home)]
    install = [*uv, "pip", "install", "--quiet", "--python", str(executable), *requirements]
    for command in (create, install):
        subprocess.run(command, cwd=ROOT, check=True)
    return executable


def main(arguments: list[str]) -> int:
    """Install, then test; pytest's exit status, or 1 where the installation fails."""
    if not arguments or arguments[0] not in RESOLUTIONS:
        print(f"Name the versions: {' or '.join(RESOLUTIONS)}", file=sys.stderr)
        return 2
    versions, *chosen = arguments
    library = ["--resolution", RESOLUTIONS[versions], "--editable", ".[book,test,dev]"]
    base = getattr(sys, "_base_executable", sys.executable)
    try:
        python = make_environment(ROOT / f".venv-{versions}", base, *library)
    except subprocess.CalledProcessError:
        print(
            f"The {versions} versions could not be installed; the reason stands above",
            file=sys.stderr,
        )
        return 1
    return subprocess.run([python, "-m", "pytest", *(chosen or ["--nbval"])], cwd=ROOT).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command starts anew.")
