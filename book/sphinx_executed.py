"""What executed pages show: the day at their foot, and a button to Colab only where it works.

MyST-NB notes the day of the pages that a build executes. Where outputs come from the notebook,
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


def without_colab(app, page, template, context, doctree):
    """Keep the theme from offering a Markdown page to Colab, which opens notebooks only."""
    if page in app.env.found_docs and not app.env.doc2path(page).endswith(".ipynb"):
        app.env.metadata[page].pop("kernelspec", None)


def setup(app):
    """Register the hooks with Sphinx, and rename the column."""
    execution_tables._key2header["mtime"] = "Last verified"
    app.connect("doctree-read", add_line)
    app.connect("html-page-context", without_colab, priority=400)  # before the theme's
    return {"parallel_read_safe": True, "parallel_write_safe": True}
