"""Every chapter was executed, has the parts of a chapter, and says nothing that it cannot show.

The template for chapters keeps all rules too.
"""

import json
import re
from pathlib import Path
from statistics import median

import pytest
from run_notebook import KEPT, KERNEL, TEMPLATE

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = set(
    re.findall(
        r"^([A-Za-z][\w -]*)\n  ", (ROOT / "book" / "notation.md").read_text("utf-8"), re.MULTILINE
    )
)
RESULTS = ("10-results", "11-when-votes-pay", "12-exit-or-student")  # figures of our records
RUNS = ROOT / "tskd_lib" / "runs"
EQUATION = re.compile(r"^\$\$\n.*?^\$\$([^\n]*)$", re.MULTILINE | re.DOTALL)


def notebooks():
    """Return the chapters, in order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path):
    """Return a notebook and its code cells that hold code."""
    notebook = json.loads(path.read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return notebook, cells


each_notebook = pytest.mark.parametrize(
    "path", [*notebooks(), TEMPLATE], ids=lambda path: path.stem
)


def test_there_are_notebooks():
    assert [path.stem for path in notebooks()][0] == "01-quickstart"


@each_notebook
def test_notebook_was_executed_from_top_to_bottom(path):
    _, cells = read(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and "error" not in {output["output_type"] for output in outputs}
    assert "stderr" not in {output.get("name") for output in outputs}


@each_notebook
def test_notebook_is_small_and_tidy(path):
    notebook, _ = read(path)
    assert path.stat().st_size < 500_000
    assert all(set(cell["metadata"]) <= KEPT for cell in notebook["cells"])


@each_notebook
def test_notebook_opens_in_jupyterlab_vs_code_and_colab_alike(path):
    notebook, _ = read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    metadata = notebook["metadata"]
    assert metadata["kernelspec"] == KERNEL and metadata["language_info"] == {"name": "python"}
    assert "widgets" not in metadata
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names)


@each_notebook
def test_first_cell_is_short_and_the_same_everywhere(path):
    _, cells = read(path)
    _, reference = read(notebooks()[0])
    assert cells[0]["source"] == reference[0]["source"]
    assert len("".join(cells[0]["source"]).splitlines()) <= 8
    # versions and device differ from reader to reader
    assert "nbval-ignore-output" in cells[0]["metadata"].get("tags", [])


def text(path):
    """Return the Markdown of a chapter."""
    cells = read(path)[0]["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def prose(path):
    """Return what a chapter says: without formulas, code, directives, roles' targets and links."""
    said = EQUATION.sub("", text(path))
    said = re.sub(r"^```.*?^```$", "", said, flags=re.MULTILINE | re.DOTALL)
    said = re.sub(r"^(:::.*|:\w+:.*|\(\S+\)=)$", "", said, flags=re.MULTILINE)
    said = re.sub(r"\{term\}`([^`<]*)[^`]*`", r"\1", said)
    said = re.sub(r"\$[^$]+\$|\{[\w:]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)", " ", said)
    return said


def code_cells(path):
    """Return the code of the cells of a chapter, and that of its solutions."""
    main, solutions, inside = [], [], False
    for cell in read(path)[0]["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            inside = source.rfind("{solution-start}") > source.rfind("{solution-end}") or (
                inside and "{solution-end}" not in source
            )
        else:
            (solutions if inside else main).append(source)
    return main, solutions


@each_notebook
def test_every_output_is_compared_or_has_a_reason(path):
    for cell in read(path)[1]:
        ignored = "nbval-ignore-output" in cell["metadata"].get("tags", [])
        assert ignored == ("nbval_reason" in cell["metadata"]), "".join(cell["source"])[:80]
        assert not {"nbval-skip", "skip-execution"} & set(cell["metadata"].get("tags", []))


@each_notebook
def test_every_figure_has_caption_name_and_alternative_text(path):
    names = []
    for cell in read(path)[1]:
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            look = cell["metadata"].get("mystnb", {})
            source = "".join(cell["source"])[:80]
            assert len(look.get("image", {}).get("alt", "")) > 20, source
            assert look.get("figure", {}).get("caption"), source
            names.append(look["figure"]["name"])
    assert len(names) == len(set(names)) and names
    assert all(name.startswith("fig-") for name in names)


@pytest.mark.parametrize(
    "path", [p for p in notebooks() if p.stem in RESULTS], ids=lambda path: path.stem
)
def test_figures_of_results_link_to_their_runs_and_commands(path):
    for cell in read(path)[1]:
        caption = cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption", "")
        if caption:
            runs = re.findall(r"\{runs\}`([\w-]+)`", caption)
            assert runs and "{ref}`commands <results-commands>`" in caption, caption
            assert all(any((RUNS / run).rglob("*.record.json")) for run in runs), caption


@each_notebook
def test_length_of_cells_and_text(path):
    main, solutions = code_cells(path)
    lengths = [len(source.splitlines()) for source in main + solutions]
    assert len(main) <= 26 and median(lengths) <= 8 and max(lengths) <= 30
    assert max(len(line) for source in main + solutions for line in source.splitlines()) <= 100
    assert 1500 <= len(prose(path).split()) <= 2500


@each_notebook
def test_exercises_have_solutions_that_run(path):
    said = text(path)
    exercises = re.findall(r"\{exercise\}.*?\n:label: (\S+)", said)
    started = re.findall(r"\{solution-start\} (\S+)\n:class: dropdown", said)
    assert len(exercises) >= 4 and sorted(started) == sorted(exercises)
    assert said.count("{solution-end}") == len(started)
    assert len(code_cells(path)[1]) >= len(exercises)
    assert len(exercises) == len(set(exercises)) and all(e.startswith("ex-") for e in exercises)


@each_notebook
def test_chapter_has_its_parts(path):
    said, (main, _) = text(path), code_cells(path)
    assert said.startswith("# ") and said.count("Predict, then reveal") >= 2
    titles = set(re.findall(r"^:::\{(?:admonition|dropdown)\} (.*)$", said, re.MULTILINE))
    assert titles == {"Predict, then reveal", "Reveal"}
    for heading in ("## Your run against ours", "## Summary", "## Exercises", "## Read on"):
        assert f"\n{heading}\n" in said, heading
    assert "**Time**" in said and "**You need**" in said
    assert any("Slider(" in source or "Explorer(" in source for source in main)
    assert any("against_ours(" in source for source in main)
    assert any("assert_close(" in source or "assert " in source for source in main)


@each_notebook
def test_no_metric_is_typed_by_hand(path):
    said = re.sub(r"\[[^]]*\]", "", prose(path))
    typed = re.findall(
        r".{0,30}\b\d+\.\d+.{0,20}|.{0,30}\b\d+(?:\.\d+)? ?(?:%|points?\b).{0,20}", said
    )
    assert not typed, typed


@each_notebook
def test_equations_are_numbered_and_referred_to(path):
    said = text(path)
    for rest in EQUATION.findall(said):
        label = re.fullmatch(r" \((eq-[\w-]+)\)", rest)
        assert label, f"an equation without a label: {rest!r}"
        assert f"{{eq}}`{label[1]}`" in said, label[1]


@each_notebook
def test_links_lead_to_pages(path):
    assert "[](" not in text(path), "Jupyter and Colab show nothing for a link without a text"
    for target in re.findall(r"\]\(([^)#\s]+)", text(path)):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target


def words_linked(path):
    """Return the glossary words that a chapter links to."""
    return set(re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]*)>?`", text(path)))


@each_notebook
def test_chapter_explains_its_words(path):
    assert words_linked(path) and words_linked(path) <= GLOSSARY, words_linked(path) - GLOSSARY


def test_every_word_of_the_glossary_is_used():
    assert GLOSSARY == set().union(*map(words_linked, notebooks()))
