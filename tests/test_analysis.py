"""Analyses agree with what the logits say, and the explorer holds just what was recorded."""

import dataclasses
import html.parser
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tskd_lib import (
    analysis,
    anytime,
    checkpoints,
    experiments,
    metrics,
    records,
    study,
    voting,
)
from tskd_lib.explorer import Explorer
from tskd_lib.losses import PRESETS
from tskd_lib.recipes import Recipe
from tskd_lib.training import evaluate, predict

METHODS = ("baseline", "multi_exit", "byot")
RECIPE = Recipe(epochs=1, batch_size=50, learning_rate=0.05, augment=None, precision="fp32")
NETWORK = {"name": "resnet8", "width": 0.5, "strength": "separable"}
PLACES = (3, 1, 4)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, digits):
    """A folder with two seeds of three methods, their records and analyses."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        recipe = Recipe(**{**vars(RECIPE), "seed": seed})
        objectives = {method: PRESETS[method] for method in METHODS}
        place = folder / f"seed-{seed}"
        experiments.run(place, "test", objectives, NETWORK, *digits, recipe, progress=False)
        for method in METHODS:
            found = analysis.analyse(place / f"{method}.json", digits[1], PLACES, "fp32")
            analysis.write(found, place / f"{method}.record.json")
    return folder


def analysis_of(runs, record):
    return analysis.read_all(runs)[record["weights sha256"]]


def test_analysis_says_what_the_logits_say(runs, digits):
    record = records.read(runs / "seed-1" / "byot.record.json")
    found, test = analysis_of(runs, record), digits[1]
    network, _ = checkpoints.load_network(runs / "seed-1" / "byot.json")
    logits = predict(network, test, "fp32")
    curve = anytime.curve(logits, test.labels, network.flops(), thresholds=analysis.THRESHOLDS)
    for column, values in found["early exit"].items():
        assert values == pytest.approx(curve[column].tolist(), abs=1e-5)
    vote = voting.vote(logits, "probability")
    bins = metrics.calibration(vote, test.labels)
    kept = found["calibration"]["vote probability"]
    assert kept["ece"] == pytest.approx(bins.ece, abs=1e-5)
    assert kept["count"] == bins.count.tolist()
    assert [x is None for x in kept["accuracy"]] == bins.accuracy.isnan().tolist()
    apart = voting.diversity(logits, test.labels).disagreement.tolist()
    assert found["diversity"]["disagreement"] == [pytest.approx(row, abs=1e-5) for row in apart]
    sure, answer = logits[0].softmax(-1)[list(PLACES)].max(-1)
    assert found["samples"]["exit 1"]["class"] == answer.tolist()
    assert found["samples"]["exit 1"]["confidence"] == pytest.approx(sure.tolist(), abs=1e-5)
    assert found["samples"]["place"] == list(PLACES)


def test_analysis_agrees_with_its_record(runs):
    for record in records.read_all(runs):
        found = analysis_of(runs, record)
        results = record["results"]
        names = [name for name in found["calibration"] if not name.startswith("vote")]
        for name, quality in zip(names, results["exits"]):
            assert found["calibration"][name]["ece"] == pytest.approx(quality["ece"], abs=1e-5)
        if "early exit" in found:
            ends = found["early exit"]["accuracy"][0], found["early exit"]["accuracy"][-1]
            exits = [quality["accuracy"] for quality in results["exits"]]
            assert ends == pytest.approx((exits[0], exits[-1]), abs=1e-5)


def test_a_single_exit_has_no_vote_and_no_early_exit(runs):
    record = records.read(runs / "seed-0" / "baseline.record.json")
    found = analysis_of(runs, record)
    assert list(found["calibration"]) == ["deepest"]
    assert not {"early exit", "diversity"} & set(found)


def test_weights_and_temperatures_are_fitted_on_the_validation_images(runs, digits):
    checkpoint, (validation, test) = runs / "seed-1" / "byot.json", digits
    look = analysis.analyse(checkpoint, test, PLACES, "fp32", validation)
    found, calibrated = look["fitted vote"], look["calibrated"]
    network, _ = checkpoints.load_network(checkpoint)
    weights = voting.fit_weights(predict(network, validation, "fp32"), validation.labels)
    assert found["weights"] == pytest.approx(weights.tolist(), abs=1e-5)
    voted = voting.vote(predict(network, test, "fp32"), "probability", weights).argmax(-1)
    assert found["accuracy"] == pytest.approx(
        (voted == test.labels).double().mean().item(), abs=1e-5
    )
    sure = predict(network, test, "fp32") / torch.tensor(calibrated["temperature"])[:, None, None]
    assert calibrated["nll"] == pytest.approx(
        [torch.nn.functional.cross_entropy(z, test.labels).item() for z in sure], abs=1e-4
    )
    voted = torch.nn.functional.nll_loss(sure.log_softmax(-1).mean(0).log_softmax(-1), test.labels)
    gained = sum(calibrated["nll"]) / len(sure) - voted.item()
    assert calibrated["ambiguity"] == pytest.approx(gained, abs=1e-4)
    few = analysis.analyse(runs / "seed-1" / "byot.json", test.subset(range(5)), precision="fp32")
    assert few["samples"]["place"] == [0, 1, 2, 3, 4]
    single = runs / "seed-1" / "baseline.json"
    assert "fitted vote" not in analysis.analyse(single, test, PLACES, "fp32", validation)
    assert "fitted vote" not in analysis_of(runs, records.read(runs / "seed-1/byot.record.json"))


def test_images_are_normalised_as_in_training(runs, digits, tmp_path):
    shutil.copytree(runs / "seed-0", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "byot.json"
    about = json.loads(path.read_text()) | {"mean": [0.9], "std": [0.5]}
    path.write_text(json.dumps(about))
    found = analysis.analyse(path, digits[1], PLACES, "fp32", digits[0])
    same = [dataclasses.replace(images, mean=(0.9,), std=(0.5,)) for images in digits[::-1]]
    assert found == analysis.analyse(path, same[0], PLACES, "fp32", same[1])
    logits = predict(checkpoints.load_network(path)[0], same[0], "fp32")
    answer = logits[0].argmax(-1)[list(PLACES)]
    assert found["samples"]["exit 1"]["class"] == answer.tolist()


def test_missing_or_broken_analyses_are_named(tmp_path):
    with pytest.raises(records.RecordError, match="no analyses"):
        analysis.read_all(tmp_path)
    (tmp_path / "x.analysis.json").write_text("{")
    with pytest.raises(records.RecordError, match="x.analysis.json is not JSON"):
        analysis.read_all(tmp_path)
    for other in ("{}", "[]"):
        (tmp_path / "x.analysis.json").write_text(other)
        with pytest.raises(records.RecordError, match="x.analysis.json is not an analysis"):
            analysis.read_all(tmp_path)


class Page(html.parser.HTMLParser):
    """Collect the controls, their labels and the texts of pictures."""

    def __init__(self, text):
        super().__init__()
        self.controls, self.labels, self.pictures = set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in ("select", "input"):
            self.controls.add(attributes["id"])
        if tag == "label":
            self.labels.add(attributes["for"])
        if tag == "img":
            self.pictures.append(attributes["alt"])


@pytest.fixture(scope="module")
def page(runs, digits):
    return Explorer(runs, digits[1])._repr_html_()


def test_explorer_holds_the_means_of_the_records(runs, page):
    shown = json.loads(re.search(r"getElementById\('explorer-\w+'\), (.*)\)</script>", page)[1])
    results = records.frame(records.read_all(runs))
    for method in METHODS:
        (held,) = (run for key, run in shown["runs"].items() if key.startswith(method + "|"))
        for answer, (mean, low, high) in held["accuracy"].items():
            rows = results[(results.method == method) & (results.answer == answer)]
            assert mean == pytest.approx(rows.accuracy.mean(), abs=1e-4)
            assert low <= mean <= high
    assert shown["images"] == [20] and shown["temperatures"] == ["4"]
    assert {run["seeds"] for run in shown["runs"].values()} == {2}
    assert [shown["methods"][method]["soft"] for method in METHODS] == [False, False, True]


def test_explorer_names_its_controls_and_pictures(page, digits):
    seen = Page(page)
    assert len(seen.controls) == 5 and seen.controls == seen.labels
    truths = [digits[1].classes[digits[1].labels[place]] for place in PLACES]
    assert seen.pictures == [f"an image of class {truth}" for truth in truths]
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_without_scripts_there_is_a_table(page):
    table = re.search(r"<noscript>(.*?)</noscript>", page, re.DOTALL)[1]
    assert table.count("<tr>") == 1 + len(METHODS) and "BYOT" in table


def test_explorer_refuses_analyses_of_other_images(runs, digits, tmp_path):
    with pytest.raises(records.RecordError, match="other test images"):
        Explorer(runs, digits[0])
    part = shutil.copytree(runs, tmp_path / "part")
    (part / "seed-1" / "byot.analysis.json").unlink()
    with pytest.raises(records.RecordError, match="no analysis of byot, seed 1"):
        Explorer(part, digits[1])
    (part / "seed-1" / "byot.record.json").unlink()
    with pytest.raises(records.RecordError, match=r"byot with 20 .* at T = 4 .* seeds \[0\]; the"):
        Explorer(part, digits[1])


def test_explorer_refuses_records_without_a_temperature(runs, digits, tmp_path):
    part = shutil.copytree(runs, tmp_path / "part")
    for path in part.rglob("byot.*"):
        path.unlink()
    with pytest.raises(records.RecordError, match="needs methods with soft targets; no record"):
        Explorer(part, digits[1])


def test_our_grid_is_whole_and_its_analyses_are_of_its_records():
    folder = records.COMMITTED / "digits-grid"
    found, analyses = records.read_all(folder), analysis.read_all(folder)
    assert {record["weights sha256"] for record in found} == set(analyses)
    explorer = Explorer(folder, study.load("quick").test)
    shown = explorer.data
    assert shown["images"] == [5, 10, 20]
    for key, run in shown["runs"].items():
        assert run["seeds"] == (10 if key.rsplit("|", 1)[1] in ("", "4") else 3), key
    soft = sum(look["soft"] for look in shown["methods"].values())
    settings = len(shown["images"]) * (soft * len(shown["temperatures"]) + 5 - soft)
    assert soft == 3 and len(shown["runs"]) == settings
    for record in found:
        low = analyses[record["weights sha256"]]["calibration"]["deepest"]["ece"]
        assert low == pytest.approx(record["results"]["exits"][-1]["ece"], abs=0.02)


ANALYSED = sorted(
    {
        path.relative_to(records.COMMITTED).parts[0]
        for path in records.COMMITTED.rglob("*" + analysis.SUFFIX)
    }
)


@pytest.mark.parametrize("name", ANALYSED)
def test_our_analyses_agree_with_their_records(name):
    found = {r["weights sha256"]: r for r in records.read_all(records.COMMITTED / name)}
    for digest, look in analysis.read_all(records.COMMITTED / name).items():
        record = found[digest]
        exits, votes = record["results"]["exits"], record["results"]["votes"]
        assert look["test sha256"] == record["data"]["test sha256"]
        named = {**{f"exit {k + 1}": exit for k, exit in enumerate(exits)}, "deepest": exits[-1]}
        named["vote probability"] = votes["probability"]
        for answer, bins in look["calibration"].items():
            assert bins["ece"] == pytest.approx(named[answer]["ece"], abs=0.01), answer
            assert sum(bins["count"]) == record["data"]["test images"]
            right = sum(n * share for n, share in zip(bins["count"], bins["accuracy"]) if n)
            share = right / sum(bins["count"])
            assert share == pytest.approx(named[answer]["accuracy"], abs=0.005), answer
        if len(exits) > 1:
            ends = [look["early exit"]["accuracy"][end] for end in (0, -1)]
            assert ends == pytest.approx([exits[k]["accuracy"] for k in (0, -1)], abs=0.005)
            costs = look["early exit"]["flops"]
            assert costs == sorted(costs)
            assert [costs[0], costs[-1]] == [record["cost"]["flops"][k] for k in (0, -1)]


CHECKPOINTS = [
    path
    for path in sorted(records.COMMITTED.rglob("*.record.json"))
    if Path(str(path).replace(".record.json", ".json")).exists()
]


@pytest.mark.parametrize("path", CHECKPOINTS, ids=lambda path: "/".join(path.parts[-3:]))
def test_our_checkpoints_answer_as_their_records_say(path, real_images):
    record = records.read(path)
    _, test = real_images(record["data"]["name"])
    network, about = checkpoints.load_network(Path(str(path).replace(".record.json", ".json")))
    assert about["sha256"] == record["weights sha256"]
    weights = next(path.parent.glob(path.name.replace(".record.json", "-*.safetensors")))
    assert weights.stat().st_size < 4_000_000 or record["method"] == "teacher"
    assert test.checksum() == record["data"]["test sha256"]
    found = evaluate(network, test, record["provenance"]["precision"])
    for mine, recorded in zip(found["exits"], record["results"]["exits"]):
        assert mine["accuracy"] == pytest.approx(recorded["accuracy"], abs=0.003)
    assert found["oracle"] == pytest.approx(record["results"]["oracle"], abs=0.003)
    for rule, recorded in record["results"]["votes"].items():
        assert found["votes"][rule]["accuracy"] == pytest.approx(recorded["accuracy"], abs=0.003)
    if len(found["exits"]) > 1:
        look = analysis.read_all(path.parent)[about["sha256"]]
        check_analysis(look, predict(network, test, record["provenance"]["precision"]), test.labels)


def check_analysis(look, logits, labels):
    """Hold an analysis against the logits: what it measured, with the weights that it fitted."""
    for measure, values in voting.diversity(logits, labels)._asdict().items():
        recorded = np.array(look["diversity"][measure], float)
        np.testing.assert_allclose(values.numpy(), recorded, atol=0.02)
    fitted, one = look["fitted vote"], look["calibrated"]
    voted = voting.vote(logits, "probability", fitted["weights"])
    assert metrics.accuracy(voted, labels).item() == pytest.approx(fitted["accuracy"], abs=0.003)
    sure = torch.stack([z / t for z, t in zip(logits, one["temperature"])])
    nll = metrics.nll(voting.probabilities(sure), labels).tolist()
    assert nll == pytest.approx(one["nll"], abs=0.02)
    assert voting.ambiguity(sure).mean().item() == pytest.approx(one["ambiguity"], abs=0.005)
