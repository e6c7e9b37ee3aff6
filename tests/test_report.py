"""The report: tables by experiment and images, and paired differences that scipy confirms."""

import pandas as pd
import pytest
from scipy import stats

from tskd_lib import records
from tskd_lib.report import report as in_markdown
from tskd_lib.report import tables, versus

OURS = records.frame(records.read_all(records.COMMITTED / "digits-few"))


def report(results):
    """What `tskd report` prints of some results."""
    return in_markdown(tables(results))


def test_differences_are_those_of_scipy():
    table = versus(OURS, "byot")
    accuracy = 100 * OURS.pivot_table("accuracy", ["method", "answer"], "seed")
    a, b = (accuracy.loc[method, "deepest"].dropna() for method in ("tskd", "byot"))
    test = stats.ttest_rel(a.to_numpy(), b.to_numpy())
    span = test.confidence_interval(0.95)
    row = table.loc["tskd, deepest"]
    assert float(row["over byot"]) == pytest.approx((a - b).mean(), abs=0.006)
    assert [float(row.low), float(row.high)] == pytest.approx([span.low, span.high], abs=0.006)
    assert float(row.p) == pytest.approx(test.pvalue, rel=0.05) and row.seeds == 10


EXITS = ["exit 1", "exit 2", "exit 3"]


@pytest.mark.parametrize(
    "rival, answer, theirs, exits",
    [("kd", "vote probability", "deepest", []), ("multi_exit", "exit 1", "exit 1", EXITS)],
)
def test_an_answer_that_a_rival_lacks_is_left_out_but_for_a_vote(rival, answer, theirs, exits):
    table = versus(OURS, rival)
    accuracy = 100 * OURS.pivot_table("accuracy", ["method", "answer"], "seed")
    gain = accuracy.loc["tskd", answer] - accuracy.loc[rival, theirs]
    assert float(table.loc[f"tskd, {answer}", f"over {rival}"]) == pytest.approx(
        gain.mean(), abs=0.006
    )
    assert not any(name.startswith((rival, "teacher")) for name in table.index)
    named = [name.split(", ")[1] for name in table.index if name.startswith("tskd,")]
    assert named == [*exits, "deepest", "vote probability"]
    assert exits or not any(", exit" in name for name in table.index)


def test_costs_are_in_the_report():
    (line,) = (line for line in report(OURS).splitlines() if line.startswith("| tskd | 94016 |"))
    record = records.read(records.COMMITTED / "digits-few" / "seed-0" / "tskd.record.json")
    assert f"| {record['cost']['flops'][-1] / 1e6:.1f} |" in line
    students = OURS[(OURS.method == "tskd") & (OURS.answer == "deepest")]
    shared = tables(OURS)["digits-few"]["costs"]["shared seconds"]
    assert shared["tskd"] == students["shared seconds"].median() > 0


def test_one_seed_gives_no_differences():
    one = OURS[OURS.seed == 0]
    assert versus(one, "kd").empty and "over kd" not in report(one)


def test_each_number_of_images_has_tables_of_its_own():
    few = OURS[(OURS.method != "teacher")].assign(images=50)
    text = report(pd.concat([OURS, few]))
    titles = [line for line in text.splitlines() if line.startswith("##")]
    assert titles == ["## digits-few, 100 images", "## digits-few, 50 images"]
    parts = [sorted(part.splitlines()[1:]) for part in text.split("## digits-few, ")[1:]]
    assert any(line.startswith("| teacher |") for line in parts[0])
    whole = sorted(report(OURS).splitlines()[1:])
    for part in parts:
        assert list(filter(None, part)) == list(filter(None, whole))


def test_two_runs_of_one_seed_are_not_averaged():
    one = OURS[OURS.seed == 0]
    with pytest.raises(records.RecordError, match="'digits-few' has two runs of .* seed 0"):
        report(pd.concat([one, one.assign(accuracy=0.5)]))


def test_two_data_sets_are_not_averaged():
    other = OURS.assign(data="cifar100", images=50_000)
    with pytest.raises(records.RecordError, match="has runs on digits and cifar100: report the"):
        report(pd.concat([OURS, other]))


def test_a_teacher_alone_is_reported():
    assert "| teacher |" in report(OURS[OURS.method == "teacher"])
