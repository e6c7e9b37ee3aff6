"""Fill the tables of the README and of some pages of the book from records and notebooks.

    python scripts/update_tables.py

What stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` is replaced; a test says when
it is out of date.
"""

import json
import re
from functools import partial
from pathlib import Path

import pandas as pd
import record_cifar
import record_strong
import record_why

from tskd_lib import metrics, records, timing
from tskd_lib.losses import PRESETS

ROOT = Path(__file__).resolve().parents[1]
BOOK = ("welcome.md", "protocol.md", "notation.md")
PAGES = (ROOT / "README.md", *(ROOT / "book" / name for name in BOOK))
VOTE = "vote probability"
OUTCOMES = {  # what the rules of the large comparison ask
    "vote of tskd over kd": (("tskd", VOTE), ("kd", "deepest")),
    "vote of tskd over vote of byot": (("tskd", VOTE), ("byot", VOTE)),
    "exit 1 of tskd over exit 1 of multi_exit": (("tskd", "exit 1"), ("multi_exit", "exit 1")),
}
ALL_IMAGES = record_strong.ARMS[record_strong.NAME]
STRONG, WIDE, LABELS_ONLY, NO_TEACHER = record_why.methods(ALL_IMAGES)
EXPECTED = {  # of strong branches with all images, written before the runs
    "vote of strong tskd over its deepest exit": ((STRONG, VOTE), (STRONG, "deepest")),
    "vote of strong tskd over kd": ((STRONG, VOTE), ("kd", "deepest")),
    "wider kd over vote of strong tskd": ((WIDE, "deepest"), (STRONG, VOTE)),
}
ALIKE = {  # at equal cost, against strong branches that learn from labels alone
    "exit 1 of strong tskd over that of strong multi_exit": (
        (STRONG, "exit 1"),
        (LABELS_ONLY, "exit 1"),
    ),
    "vote of strong tskd over that of strong multi_exit": ((STRONG, VOTE), (LABELS_ONLY, VOTE)),
}
TAUGHT = {  # at equal cost, against strong branches that only teach themselves
    "vote of strong tskd over that of strong byot": ((STRONG, VOTE), (NO_TEACHER, VOTE)),
    "exit 1 of strong tskd over that of strong byot": ((STRONG, "exit 1"), (NO_TEACHER, "exit 1")),
}
AGAIN = "vote of strong tskd over kd"  # what was looked at a second time, with more seeds
WITHIN = 0.85  # of the benchmark's speed
READING = 150  # words a minute, with formulas and code
EXPERIMENTS = (record_cifar.NAME, "cifar100-few", "cifar100-small")


def results() -> str:
    """The methods on CIFAR-100, and how the numbers were made."""
    return "\n\n".join(map(experiment, EXPERIMENTS))


def origins(found: list[dict]) -> str:
    """The command that made these records, and the commits that it ran at."""
    commits = dict.fromkeys(f"`{r['provenance']['git commit'][:7]}`" for r in found)
    return f"`{records.command(found[0])}` at commit{'s' * (len(commits) > 1)} {', '.join(commits)}"


def experiment(name: str) -> str:
    """The table of one experiment, between what was run and how fast it was."""
    found = records.read_all(records.COMMITTED / name)
    table = records.frame(found)
    table = table[~table["answer"].isin(["vote majority", "vote logit", "vote geometric"])]
    students = [record for record in found if record["method"] != "teacher"]
    (teacher,) = (record for record in found if record["method"] == "teacher")
    origin, seeds = students[0]["provenance"], len({record["seed"] for record in students})
    hardware = dict.fromkeys(record["provenance"]["hardware"] for record in students)
    made, taught = map(origins, (students, [teacher]))
    apart = "" if taught == made else f", the teacher with {taught},"
    speed = records.costs(records.frame(students))["images per second"]
    spread = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "1 seed"

    def seen(record: dict) -> str:
        epochs = record["configuration"]["recipe"]["epochs"]
        return f"{record['data']['train images']:,} images for {epochs} epochs"

    return "\n".join(
        [
            f"Test accuracy in percent after the last epoch, {spread}: "
            f"the students saw {seen(students[0])}, their teacher {seen(teacher)}.",
            "",
            records.markdown(records.summary(table)),
            "",
            f"Made with {made}{apart} on "
            f"{' and '.join(hardware)}, threads: {origin['threads']}, {origin['precision']}. "
            f"A student's own steps, without batches and teacher, images/s, median: "
            f"{', '.join(f'{m} {rate:,.0f}' for m, rate in speed.items())}.",
        ]
    )


def search() -> str:
    """What validation images chose for each method on CIFAR-100, and the teacher they will have."""
    found = records.read_all(records.COMMITTED / f"{record_cifar.NAME}-search")
    by_name, rows = {record["method"]: record["results"] for record in found}, []
    chosen = record_cifar.best(found)
    for method in PRESETS:
        name = chosen[method]
        trials = [r["exits"][-1]["accuracy"] for n, r in by_name.items() if n.split()[0] == method]
        results, (_, rate, setting) = by_name[name], name.split()
        vote = results["votes"]["probability"]["accuracy"]
        rows.append(
            {
                "method": method,
                "learning rate": rate.split("=")[1],
                "its own setting": setting.replace("_", " ").replace("=", " "),
                "deepest exit": f"{100 * results['exits'][-1]['accuracy']:.2f}",
                "vote": f"{100 * vote:.2f}" if len(results["exits"]) > 1 else "",
                "all nine, deepest exit": f"{100 * min(trials):.2f} to {100 * max(trials):.2f}",
            }
        )
    (teacher,) = records.read_all(records.COMMITTED / record_cifar.NAME / "teacher")
    reached = f"{100 * teacher['results']['exits'][-1]['accuracy']:.2f}"
    table = records.markdown(pd.DataFrame(rows).set_index("method"))
    return f"{table}\n\nThe teacher of the comparison is right on {reached} % of the test images."


def again() -> str:
    """The difference that was looked at a second time, with more seeds."""
    experiments, looks = (record_cifar.NAME, *record_strong.ARMS), 2 * len(EXPECTED)
    strict = {f"shows (p below 0.05 / {looks})": 0.05 / looks}
    return differences({AGAIN: EXPECTED[AGAIN]}, *experiments, levels=strict)


def differences(pairs: dict, *experiments: str, levels: dict | None = None) -> str:
    """Paired differences in points, and which of them show.

    A claim shows where p is below a level, by default 0.05, whose interval is printed, and the
    same by Bonferroni's rule for these pairs. Where its mean lies below zero, the opposite shows.
    """
    levels = levels or {"shows": 0.05, "by Bonferroni": 0.05 / len(pairs)}
    found = [r for name in experiments for r in records.read_all(records.COMMITTED / name)]
    students = records.frame(r for r in found if r["method"] != "teacher")
    accuracy = 100 * students.pivot_table("accuracy", ["method", "answer"], "seed")
    rows = {}
    for name, (ours, theirs) in pairs.items():
        seeds = accuracy.loc[ours] - accuracy.loc[theirs]
        gain = metrics.paired(accuracy.loc[ours], accuracy.loc[theirs])
        yes = "yes" if gain.mean > 0 else "the opposite"
        rows[name] = {f"seed {seed}": f"{points:+.2f}" for seed, points in seeds.items()} | {
            "mean": f"{gain.mean:+.2f}",
            "95 % interval": f"{gain.t_low:+.2f} to {gain.t_high:+.2f}",
            "p": f"{gain.p:.4f}",
            **{verdict: yes if gain.p < level else "no" for verdict, level in levels.items()},
        }
    return records.markdown(pd.DataFrame(rows).T.rename_axis("difference", axis=0))


def bench() -> str:
    """What `tskd bench` measured, a column for each machine and precision."""
    paths = sorted(records.COMMITTED.glob("bench-*.json"), reverse=True)
    machines = [json.loads(path.read_text("utf-8")) for path in paths]
    columns, lines = {}, []

    def row(name: str) -> str:
        return re.sub(r", \d+ workers", "", name)  # their faster number differs

    def cell(result: dict) -> str:
        verdict = {True: ", reached", False: ", **missed**", None: ""}[result["reached"]]
        value, near = f"{result['value']:.3f}", {"at_least": "just below", "at_most": "just above"}
        for kind, limit in result["bar"].items():
            if result["reached"] is False and float(value) == limit:
                value = f"{near[kind]} {value}"
        return f"{value} ({result['low']:.3f} to {result['high']:.3f}){verdict}"

    for record in machines:
        origin = record["provenance"]
        column = f"{origin['hardware']}, {origin['precision']}"
        columns[column] = {row(name): cell(r) for name, r in record["results"].items()}
        lines += [
            "",
            f"{origin['hardware']}, {origin['threads']} threads, {origin['precision']}, "
            f"{origin['started'][:10]}, commit `{origin['git commit'][:7]}`:",
            "",
            *(f"- {remark}" for remark in timing.remarks(record)),
        ]
    wanted = {
        row(name): "".join(f"{k.replace('_', ' ')} {limit:g}" for k, limit in r["bar"].items())
        for record in machines
        for name, r in record["results"].items()
    }
    table = pd.DataFrame({"wanted": wanted, **columns}).reindex(wanted).fillna("")
    table = records.markdown(table.rename_axis("median (rounds) of one run, in turns"))
    return "\n".join([table, *lines, "", large_speed(machines)])


def large_speed(machines: list[dict]) -> str:
    """How fast the large comparison was, held against the benchmark where it was trained so."""
    found = records.read_all(records.COMMITTED / record_cifar.NAME)
    lines = [
        "How fast the large comparison trained the student alone, in images/s; wanted is at least "
        f"{WITHIN:g} of the benchmark:",
        "",
    ]
    for bench in machines:
        machine = {key: bench["provenance"][key] for key in ("hardware", "precision")}
        same = [r for r in found if machine.items() <= r["provenance"].items()]
        if not any(record["method"] == "baseline" for record in same):
            continue
        trained = records.costs(records.frame(same))["images per second"]["baseline"]
        promised = bench["timings"]["resnet10, default"]["images per second"]
        share = bench["provenance"]["threads"] * trained / promised
        lines.append(
            f"- {machine['hardware']}: {trained:,.0f} on each core, together {share:.2f} times the "
            f"default step of the benchmark, which has all cores for one process "
            f"({promised:,.0f}), {'reached' if share >= WITHIN else '**missed**'}"
        )
    return "\n".join(lines)


def presets() -> str:
    """The weights of every method, where they are not zero."""
    rows = {}
    for name, objective in PRESETS.items():
        row = objective.settings()
        row["label"] *= objective.exits != "deepest"
        row["temperature"] *= objective.teacher + objective.self_ > 0
        rows[f"`{name}`"] = {key: value or "" for key, value in row.items()}
    table = pd.DataFrame(rows).T.rename_axis("preset").drop(columns="smoothing")
    return records.markdown(table[["exits", *table.columns.drop("exits")]])


def chapters() -> str:
    """The chapters, with the minutes to read them and the seconds that they compute."""
    lines = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        title, about = re.match(r"# (.*?)\n\n(.*?[.?!])(?:\s|$)", texts[0], re.DOTALL).groups()
        seconds = re.search(r"about (\d+) seconds", texts[0])[1]
        minutes = round(sum(len(text.split()) for text in texts) / READING)
        lines += [
            f"1. **[{title}](../notebooks/{path.name})**\\",
            f"   {' '.join(about.split())} *{minutes} min to read, {seconds} s to compute*",
        ]
    return "\n".join(lines)


def filled(text: str) -> str:
    """A page with its tables as they should be."""

    def table(found: re.Match) -> str:
        name = found[1]
        return f"<!-- {name}:begin -->\n{TABLES[name]()}\n<!-- {name}:end -->"

    return re.sub(r"<!-- (\w+):begin -->.*<!-- \1:end -->", table, text, flags=re.DOTALL)


TABLES = {
    "results": results,
    "search": search,
    "outcomes": partial(differences, OUTCOMES, record_cifar.NAME),
    "expected": partial(differences, EXPECTED, record_cifar.NAME, record_strong.NAME),
    "alike": partial(differences, ALIKE, record_strong.NAME),
    "taught": partial(differences, TAUGHT, record_strong.NAME),
    "again": again,
    "bench": bench,
    "presets": presets,
    "chapters": chapters,
}

if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text("utf-8")), "utf-8")
