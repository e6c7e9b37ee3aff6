"""Say at the foot of a page when it was last executed, and with which PyTorch.

MyST-NB notes this for the pages that a build executes. Where outputs are taken from the notebook,
nothing is said. The table of the status page gets a heading that says what its times are.
"""

import datetime
from importlib import metadata

from docutils import nodes
from myst_nb.ext import execution_tables


def add_line(app, doctree):
    """Add the line to a page that was executed without an error."""
    done = getattr(app.env, "nb_metadata", {}).get(app.env.docname, {}).get("exec_data")
    if done and done["succeeded"]:
        day = datetime.datetime.fromtimestamp(done["mtime"], datetime.timezone.utc).date()
        text = f"Last executed with success: {day}, torch {metadata.version('torch')}."
        next(doctree.findall(nodes.section)).append(
            nodes.paragraph(text=text, classes=["tskd-last-executed"])
        )


def setup(app):
    """Register the hook with Sphinx, and rename the column."""
    execution_tables._key2header["mtime"] = "Last verified"
    app.connect("doctree-read", add_line)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
