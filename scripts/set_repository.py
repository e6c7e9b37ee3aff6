"""Change the repository's address everywhere, for a fork.

    python scripts/set_repository.py https://github.com/you/fork

The address stands in `_config.yml`. The README, the citation, the package's links and each
notebook's first cell repeat it, because nothing can be looked up there.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r"https://github\.com/([\w-]+)/([\w.-]+?)(?:\.git)?/?")


def current(root: Path) -> tuple[str, str]:
    """Return the owner and the name that `_config.yml` gives."""
    line = re.search(r"^ *url: *(\S+) *$", (root / "_config.yml").read_text("utf-8"), re.MULTILINE)
    match = line and ADDRESS.fullmatch(line[1])
    if not match:
        raise SystemExit("_config.yml has no line like 'url: https://github.com/owner/name'.")
    return match[1], match[2]


def repository_files(root: Path) -> list[Path]:
    """Return the files of the clone at `root`: those that git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(
            f"{root} is not a git clone: this command asks git for the files."
        ) from None
    return [
        root / name for name in sorted(set(names.split("\0"))) if name and (root / name).is_file()
    ]


def mentions(owner: str, name: str) -> re.Pattern:
    """Return what finds each way in which the files write an address; that of Pages is lower."""
    site = re.escape(owner.lower()) + r"\.github\.io"
    return re.compile(rf"(?<![\w-])(?:{re.escape(owner)}|({site}))/{re.escape(name)}(?![\w-])")


def change(root: Path, owner: str, name: str) -> list[Path]:
    """Write the new address in every file that has the old one, and return those files."""
    old, changed = mentions(*current(root)), []

    def new(found: re.Match) -> str:
        return f"{owner.lower()}.github.io/{name}" if found[1] else f"{owner}/{name}"

    files = repository_files(root)
    # _config.yml last: an interrupted change is found and finished by the next
    for path in sorted(files, key=lambda path: path.name == "_config.yml"):
        try:
            before = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        after = old.sub(new, before)
        if after != before:
            path.write_bytes(after.encode("utf-8"))
            changed.append(path)
    return changed


def main(arguments: list[str]) -> int:
    """Read the address, change it, and tell where."""
    match = ADDRESS.fullmatch(arguments[0]) if len(arguments) == 1 else None
    if not match:
        print("One address is needed, like https://github.com/you/fork", file=sys.stderr)
        return 2
    for path in change(ROOT, match[1], match[2]):
        print(f"changed {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
