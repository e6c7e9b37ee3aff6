"""The report of a folder of records: accuracies, and what each method gains over its rivals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .metrics import paired
from .records import RecordError, costs, markdown, summary

if TYPE_CHECKING:
    import pandas as pd

RIVALS = ("kd", "byot", "multi_exit")  # the paper compares TSKD with the first two


def report(found: dict[str, dict[str, pd.DataFrame]]) -> str:
    """Tables in Markdown, below their titles.

    Args:
        found: from `tables`.
    """
    parts = []
    for title, of_title in found.items():
        parts += [f"## {title}", *map(markdown, of_title.values())]
    return "\n\n".join(parts) + "\n"


def tables(results: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """The tables of each experiment, and in it of each number of training images, by title.

    "accuracy" has the accuracies in percent (`records.summary`), "costs" what they cost
    (`records.costs`). Where methods share two seeds or more with kd, byot or multi_exit, "over kd"
    and so on have their differences (`versus`).

    Args:
        results: from `records.frame`.

    Raises:
        RecordError: where a method of an experiment has two runs with one seed and as many images,
            or the runs of an experiment are of several data sets.
    """
    found, run = {}, ["experiment", "method", "seed", "images"]
    twice = results[results.duplicated([*run, "answer"])]
    if not twice.empty:
        name, method, seed, _ = twice.iloc[0][run]
        raise RecordError(
            f"the experiment {name!r} has two runs of {method} with seed {seed}: "
            "report the folders one by one"
        )
    for name, experiment in results.groupby("experiment", sort=False):
        if experiment.data.nunique() > 1:
            raise RecordError(
                f"the experiment {name!r} has runs on {' and '.join(experiment.data.unique())}: "
                "report the folders one by one"
            )
        teachers = experiment.method == "teacher"
        sizes = experiment[~teachers].images.unique()
        for images in sizes if len(sizes) > 1 else [None]:
            title, part = name, experiment
            if images is not None:
                title = f"{name}, {images:,} images"
                part = experiment[teachers | (experiment.images == images)]
            found[title] = {"accuracy": summary(part), "costs": costs(part)}
            for rival in RIVALS:
                if rival in set(part.method) and not (over := versus(part, rival)).empty:
                    found[title][f"over {rival}"] = over
    return found


def versus(results: pd.DataFrame, rival: str) -> pd.DataFrame:
    """What every method gains over a rival, in points, seed by seed.

    Args:
        results: of one experiment, from `records.frame`.
        rival: a method; its deepest exit stands in for a vote that it does not have.

    Returns:
        A DataFrame with a row for each method's deepest exit, its vote of mean probabilities, and
        those exits before the deepest that the rival has too: the mean difference, its 95 % t
        interval, the p-value of the paired t test, and the number of seeds that both have. Empty
        where no method shares two seeds with the rival.
    """
    import pandas as pd

    accuracy, rows = results.pivot_table("accuracy", ["method", "answer"], "seed"), {}
    exits = [a for method, a in accuracy.index if method == rival and a.startswith("exit")]
    for method in accuracy.index.unique("method").drop([rival, "teacher"], errors="ignore"):
        for answer in (*exits, "deepest", "vote probability"):
            theirs = (rival, answer if (rival, answer) in accuracy.index else "deepest")
            if {(method, answer), theirs} <= set(accuracy.index):
                both = 100 * accuracy.loc[[(method, answer), theirs]].dropna(axis=1)
                if both.shape[1] > 1:
                    gain = paired(*both.to_numpy())
                    values = [*map("{:+.2f}".format, (gain.mean, gain.t_low, gain.t_high))]
                    rows[f"{method}, {answer}"] = [*values, f"{gain.p:.2g}", gain.n]
    columns = [f"over {rival}", "low", "high", "p", "seeds"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)
