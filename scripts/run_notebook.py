"""Execute one notebook in place and keep only what a reader needs.

    python scripts/run_notebook.py 01-quickstart

Times, warnings and versions are left out, so that two executions differ only where results do,
and pictures get a palette, which makes them smaller. "template" is the template for chapters.
"""

import base64
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from tskd_lib.checkpoints import write_atomically
from tskd_lib.widgets import smaller_png

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "book" / "template.ipynb"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
KEPT = {"mystnb", "nbval_reason", "tags"}  # editors add more to a cell's metadata


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Remove what differs from run to run, and give every notebook the same description."""
    notebook.metadata.update(kernelspec=KERNEL, language_info={"name": "python"})
    for cell in notebook.cells:
        cell.metadata = {key: cell.metadata[key] for key in cell.metadata if key in KEPT}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for data in [output.get("data", {}) for output in cell.outputs]:
                if "image/png" in data:
                    small = smaller_png(base64.b64decode(data["image/png"]))
                    data["image/png"] = base64.b64encode(small).decode()


def run(path: Path) -> None:
    """Execute the notebook at `path` from its own folder and write it back."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    tidy(notebook)
    write_atomically(path, nbformat.writes(notebook).encode() + b"\n")


def main(arguments: list[str]) -> int:
    """Find the notebook by its name; leave it as it was if a cell fails."""
    known = {path.stem: path for path in [*sorted(ROOT.glob("notebooks/*.ipynb")), TEMPLATE]}
    if len(arguments) != 1 or arguments[0] not in known:
        print(f"Name one of the notebooks: {', '.join(known)}", file=sys.stderr)
        return 2
    try:
        run(known[arguments[0]])
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        print(f"{error}\nThe notebook was left as it was.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the notebook was left as it was.")
