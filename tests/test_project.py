"""The project's own files agree with each other, and name nothing that only one machine has."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import install
import pytest
import run_as_on_colab
import run_with_versions
import set_repository
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import tskd_lib
from tskd_lib.__main__ import main, make_parser

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
PLATFORMS = ["linux", "darwin", "win32"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
README = (ROOT / "README.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


@pytest.fixture(scope="module")
def files():
    """Return the path of every file of the clone."""
    try:
        paths = set_repository.repository_files(ROOT)
    except SystemExit as reason:
        pytest.skip(str(reason))
    return [path.relative_to(ROOT).as_posix() for path in paths]


@pytest.fixture(scope="module")
def committed(files):
    """Return the text of every file of the clone that has one, by its path."""
    texts = {}
    for path in files:
        try:
            texts[path] = (ROOT / path).read_text("utf-8")
        except UnicodeDecodeError:
            pass
    return texts


# Packages


def lock_entries():
    """Return each pinned requirement of the lock with the hashes that follow it."""
    logical = (ROOT / "requirements.lock").read_text("utf-8").replace("\\\n", " ").splitlines()
    lines = [line.strip() for line in logical if line.strip() and not line.lstrip().startswith("#")]
    return [
        (Requirement(line.split(" --hash=")[0]), line.count(" --hash=sha256:")) for line in lines
    ]


def declared():
    """Return every requirement of pyproject.toml, extras included."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in lists for line in group]


def test_lock_pins_every_package_with_hashes():
    for requirement, hashes in lock_entries():
        assert requirement.url is None
        assert [one.operator for one in requirement.specifier] == ["=="], requirement
        assert hashes > 0, requirement


def test_colabs_versions_satisfy_the_library_without_an_upgrade():
    lines = run_as_on_colab.VERSIONS.read_text("utf-8").splitlines()
    pins = {one.name: one for one in map(Requirement, lines[1:])}
    for needed in map(Requirement, PROJECT["dependencies"]):
        (version,) = (one.version for one in pins[needed.name].specifier)
        assert needed.specifier.contains(version), needed


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_lock_satisfies_every_declared_bound(python, platform):
    here = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": platform,
        "implementation_name": "cpython",
    }
    pins = {}
    for requirement, _ in lock_entries():
        if requirement.marker is None or requirement.marker.evaluate(here):
            assert requirement.name not in pins, f"two pins of {requirement.name}"
            pins[requirement.name] = next(iter(requirement.specifier)).version
    wanted = [one for one in declared() if one.marker is None or one.marker.evaluate(here)]
    assert len(wanted) > 20
    for requirement in wanted:
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_conda_installs_the_lock_with_a_supported_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    python, pip, packages = environment["dependencies"]
    assert python.split() == ["python", PROJECT["requires-python"]]
    assert pip == "pip" and packages == {"pip": ["-r requirements.lock"]}
    assert "channels" not in environment and f"conda activate {environment['name']}" in README


def test_supported_pythons_are_the_same_everywhere():
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}" in supported] == PYTHONS
    assert [(3, int(one[2:])) for one in (PYTHONS[0], PYTHONS[-1])] == [
        install.OLDEST,
        install.NEWEST,
    ]
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in README


def test_wheel_holds_the_whole_package(tmp_path, files):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("tskd_lib-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {name for name in files if name.startswith("tskd_lib/")}
    assert "tskd_lib/__init__.py" in wanted and wanted <= names
    assert any(name.endswith(".safetensors") for name in wanted)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"tskd_lib"}


# The library


def test_modules_use_only_those_before_them():
    names = [*tskd_lib.__all__, "__main__"]
    for place, name in enumerate(names):
        tree = ast.parse((ROOT / "tskd_lib" / f"{name}.py").read_text("utf-8"))
        froms = [one for one in ast.walk(tree) if isinstance(one, ast.ImportFrom) and one.level]
        used = {one.module for one in froms} | {a.name for one in froms for a in one.names}
        assert not used & set(names[place:]), name


def test_console_script_is_the_commands_main():
    (script,) = metadata.entry_points(group="console_scripts", name="tskd")
    assert script.load() is main


# Commands


def targets():
    """Return the names of the Makefile's targets."""
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def shell_blocks(text):
    """Return the lines of a page's shell blocks."""
    blocks = re.findall(r"^ *```(?:sh|powershell)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("page", [README, CONTRIBUTING], ids=["readme", "contributing"])
def test_pages_name_only_commands_and_files_that_exist(page):
    named = set(re.findall(r"\bmake ([a-z]+)\b(?! anew)", "\n".join(shell_blocks(page))))
    named |= set(re.findall(r"`make ([a-z]+)", page))
    assert {"book", "test", "serve"} <= named <= targets()
    for path in re.findall(r"(?<![\w/-])(?:scripts|tests|book)[\\/][\w\\/-]+\.\w+", page):
        assert (ROOT / path.replace("\\", "/")).exists(), path


def test_the_readmes_comparisons_have_options_that_exist():
    lines = [line for line in shell_blocks(README) if " compare " in line]
    assert len(lines) == 3
    for line in lines:
        options = make_parser().parse_args(shlex.split(line[line.index("compare") :]))
        assert options.dataset == "cifar100"


def test_hooks_run_the_locked_tools_and_download_nothing():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert set(hooks) == {"ruff-check", "ruff-format", "chapters"}
    for hook in hooks.values():
        assert hook["language"] == "system" and hook["entry"].startswith(".venv/bin/")
    wanted = re.compile(hooks["chapters"]["files"])
    assert all(map(wanted.search, ("notebooks/01-quickstart.ipynb", "book/template.ipynb")))
    assert {"ruff", "pre-commit"} <= {one.name for one in declared()}


def test_bare_pytest_finds_its_folders():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]
    paths = settings["ini_options"]["testpaths"]
    assert paths and all((ROOT / path).is_dir() for path in paths)  # nbval alone takes a notebook


def test_windows_and_conda_run_what_make_runs():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    lines = shell_blocks(README)
    for command in ("jupyter-book build . -n -W --keep-going --all", "python -m pytest --nbval"):
        assert command in makefile
        assert sum(line.endswith(command) for line in lines) == 2, command


def test_every_chapter_is_executed_for_the_book():
    settings = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["execute"]
    assert settings["execute_notebooks"] == "force" and "exclude_patterns" not in settings


def test_continuous_integration_runs_the_readme_test_command():
    runs = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert "make test" in runs and "make test" in shell_blocks(README)


def workflow(name):
    """Return one workflow, parsed."""
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text("utf-8"))


def steps(job):
    """Return the commands and actions of a job."""
    return [step.get("run") or step["uses"].split("@")[0] for step in job["steps"]]


def test_workflow_tests_every_python_on_linux_and_mac_and_both_bounds():
    jobs = workflow("tests.yml")["jobs"]
    matrix = jobs["locked"]["strategy"]["matrix"]
    assert matrix["python"] == PYTHONS
    assert matrix["os"] == ["ubuntu-latest", "macos-latest"]
    assert "make test PYTHON=python" in steps(jobs["locked"])
    bounds = jobs["bounds"]["strategy"]["matrix"]["include"]
    assert {one["versions"] for one in bounds} == set(run_with_versions.RESOLUTIONS)
    assert "python scripts/run_with_versions.py ${{ matrix.versions }}" in steps(jobs["bounds"])


def test_workflow_tells_each_week_what_newer_packages_break():
    weekly = workflow("weekly.yml")
    assert weekly["on"]["schedule"] and weekly["permissions"]["issues"] == "write"
    *_, test, build, tell = weekly["jobs"]["newest"]["steps"]
    assert test["run"] == "python scripts/run_with_versions.py newest"
    command = build["run"].removeprefix(".venv-newest/bin/")
    assert f"$(BIN)/{command}\n" in (ROOT / "Makefile").read_text("utf-8")
    assert tell["if"] == "failure()"


@pytest.mark.skipif(os.name == "nt", reason="runs on Linux")
@pytest.mark.parametrize("open_titles", [[], ["Another one"], ["TITLE"], ["Another one", "TITLE"]])
def test_weekly_workflow_opens_one_issue_and_no_second(tmp_path, open_titles):
    step = workflow("weekly.yml")["jobs"]["newest"]["steps"][-1]
    title = step["env"]["TITLE"]
    gh = tmp_path / "gh"
    gh.write_text(
        '#!/bin/sh\nif [ "$2" = list ]; then cat "$STATE"; else echo "$@" > "$MADE"; fi\n'
    )
    gh.chmod(0o755)
    (tmp_path / "open").write_text("".join(f"{t}\n" for t in open_titles).replace("TITLE", title))
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "STATE": str(tmp_path / "open"),
        "MADE": str(tmp_path / "made"),
        "TITLE": title,
        "RUN": "https://example.org/run",
    }
    subprocess.run(["bash", "-e", "-c", step["run"]], env=environment, check=True)
    made = tmp_path / "made"
    assert made.exists() == ("TITLE" not in open_titles)
    assert not made.exists() or f"issue create --title {title} --body See" in made.read_text()


def test_workflow_builds_and_deploys_the_book():
    book = workflow("book.yml")
    assert book["on"]["push"] == {"branches": ["main"]} and book["on"]["schedule"]
    assert "make book PYTHON=python" in steps(book["jobs"]["build"])
    assert "actions/upload-pages-artifact" in steps(book["jobs"]["build"])
    assert book["jobs"]["deploy"]["needs"] == "build"
    assert steps(book["jobs"]["deploy"]) == ["actions/configure-pages", "actions/deploy-pages"]


def test_make_alone_lists_the_commands():
    lines = re.findall(r'@echo "make ([\w]+)', (ROOT / "Makefile").read_text("utf-8"))
    assert set(lines) == targets() - {"help"} and len(lines) == len(set(lines))


def test_readme_tells_the_disk_space():
    stated = re.search(
        r"needs (\d+) GB of free disk space, of which the environment keeps (\d+)",
        README.replace("\n", " "),
    )
    if sys.platform.startswith("linux"):
        assert float(stated[1]) >= install.INSTALLED + 2 * install.DOWNLOADED
        assert float(stated[2]) >= install.INSTALLED


# The repository's address


def test_every_mention_of_the_address_is_that_of_the_configuration(committed):
    owner, name = set_repository.current(ROOT)
    notebooks = {path for path in committed if path.endswith(".ipynb")}
    texts = {"_config.yml", "README.md", "CONTRIBUTING.md", "CITATION.cff", "pyproject.toml"}
    for path in texts | notebooks:
        # a chapter may cite the code of others; it installs ours
        prefix = r"git\+https://" if path in notebooks else r"(?<!\.)"
        found = re.findall(prefix + r"github(?:\.com)?/([\w-]+/[\w.-]*\w)", committed[path])
        assert set(found) - {"you/fork"} == {f"{owner}/{name}"}, path
        pages = re.findall(r"([\w-]+)\.github\.io/([\w.-]*\w)", committed[path])
        assert set(pages) <= {(owner.lower(), name)}, path


def test_one_command_changes_the_address_everywhere(tmp_path, committed):
    for path, text in committed.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    owner, name = set_repository.current(ROOT)
    command = [
        sys.executable,
        "scripts/set_repository.py",
        "https://github.com/Some-one/other.book/",
    ]
    result = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    for path in ("_config.yml", "README.md", "CITATION.cff", "pyproject.toml"):
        assert f"changed {path}" in result.stdout
    assert result.stdout.endswith("changed _config.yml\n")  # until then the old one is known
    assert set_repository.current(tmp_path) == ("Some-one", "other.book")
    for path, text in committed.items():
        after = (tmp_path / path).read_text("utf-8")
        for form, new_owner in {
            "github.com/{}/{}": "Some-one",
            "github/{}/{}": "Some-one",
            "{}.github.io/{}": "some-one",
        }.items():
            old, new = form.format(owner, name), form.format(new_owner, "other.book")
            assert old not in after and after.count(new) >= text.count(old), path


@pytest.mark.parametrize("wrong", [[], ["me/fork"], ["https://github.com/me"]])
def test_wrong_address_is_one_sentence(wrong, capsys):
    assert set_repository.main(wrong) == 2
    assert capsys.readouterr().err == "One address is needed, like https://github.com/you/fork\n"


# What must not be committed, and what must


def test_no_file_names_a_package_registry(committed):
    option = re.compile(r"--(?:extra-)?index-url[ =]|--find-links")
    host = re.compile(r"(pypi|pythonhosted|npmjs|anaconda|download\Wpytorch)\W(org|com|io)\b")
    for path, text in committed.items():
        assert not host.search(text), path
        assert path.endswith(".py") or not option.search(text), path
    assert "://" not in committed["requirements.lock"]


def test_no_file_names_a_folder_of_one_machine(committed):
    private = re.compile(r"(?<![\w.])/(?:home|Users|root|tmp|work)/\w")
    here = re.compile(rf"(?<![\w.]){re.escape(str(ROOT) + os.sep)}")
    for path, text in committed.items():
        if path != "tests/test_project.py":
            assert not private.search(text), path
            assert not here.search(text), path


def test_citation_names_the_book_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    title = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["title"]
    assert citation["cff-version"] == "1.2.0" and citation["title"] == title
    (paper,) = [one for one in citation["references"] if one["type"] == "article"]
    assert paper["doi"] == "10.1007/s10489-022-03486-4" and len(paper["authors"]) == 6
    assert paper["doi"] in README


def test_licences_cover_code_and_text():
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License")
    assert "CC BY 4.0" in (ROOT / "LICENSE-TEXT").read_text("utf-8")
    assert PROJECT["license-files"] == ["LICENSE", "LICENSE-TEXT"]


# The book


def test_table_of_contents_lists_every_page():
    toc = (ROOT / "_toc.yml").read_text("utf-8")
    listed = set(re.findall(r"(?:file|root): (\S+)", toc))
    pages = [*ROOT.glob("book/*.md"), *ROOT.glob("notebooks/*.ipynb")]  # not the template
    assert listed == {path.relative_to(ROOT).with_suffix("").as_posix() for path in pages}


def test_quickstart_is_the_first_link_of_the_book_and_of_its_contents():
    welcome = (ROOT / "book" / "welcome.md").read_text("utf-8")
    assert re.search(r"\]\((.*?)\)", welcome)[1] == "../notebooks/01-quickstart.ipynb"
    toc = (ROOT / "_toc.yml").read_text("utf-8")
    assert re.findall(r"file: (\S+)", toc)[0] == "notebooks/01-quickstart"


def test_library_page_shows_every_module():
    shown = re.findall(
        r"automodule:: tskd_lib\.(\w+)", (ROOT / "book" / "api.md").read_text("utf-8")
    )
    modules = {path.stem for path in ROOT.glob("tskd_lib/*.py") if not path.stem.startswith("_")}
    assert len(shown) == len(set(shown)) and set(shown) == modules


def test_nbval_masks_times_and_addresses_only():
    masks = re.findall(
        r"^regex: (.*)\nreplace: (.*)$", (ROOT / "tests/nbval.cfg").read_text("utf-8"), re.M
    )

    def masked(text):
        for pattern, replacement in masks:
            text = re.sub(pattern, replacement, text)
        return text

    assert (
        masked("took 1.25 s, 3 ms, 12 min at 0x7f12ab34cd56") == "took TIME, TIME, TIME at ADDRESS"
    )
    for text in (
        "accuracy 0.9312",
        "96.4 % of 450 images",
        "3 students, 5 seeds",
        "2 stages",
        "10 x 10",
    ):
        assert masked(text) == text
