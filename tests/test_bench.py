import dataclasses
import json

import jsonschema
import pytest
import torch

from tskd_lib import bench, data, records, timing

TINY = bench.Workload(
    large=("resnet10", 1 / 16),
    small=("resnet8", 1 / 4),
    classes=5,
    image_size=8,
    batch_size=4,
    large_steps=1,
    small_steps=2,
    matrices=(8, 16),
)
GROUPS = ["optimiser", *timing.GROUPS, "rest"]


@pytest.fixture(scope="module")
def record():
    """Return what a whole run measures, tiny, with a torch.compile that does not work."""

    def no_compiler(*arguments, **options):
        raise RuntimeError("no working\nC++ compiler")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "compile", no_compiler)
        return bench.measure(2, TINY, {"base": "pass", "json": "import json", "sys": "import sys"})


def test_entrants_take_turns_and_the_first_turn_is_not_timed():
    now, order = [0.0], []

    def entrant(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds * len(order)

        return run

    entrants = {"a": entrant("a", 1), "b": entrant("b", 10), "c": entrant("c", 100)}
    seconds = timing.interleave(entrants, 2, lambda: now[0])
    assert "".join(order) == "abcabcabc"
    assert seconds == {"a": [4, 7], "b": [50, 80], "c": [600, 900]}


def test_ratios_are_of_one_round_and_their_median_is_judged():
    values = timing.ratios([3, 8, 10], [1, 2, 1])
    assert values == [3, 4, 10]
    assert timing.judge(values) == {"value": 4, "low": 3, "high": 10, "bar": {}, "reached": None}


@pytest.mark.parametrize(
    "value, bar, reached",
    [
        (0.91, {"at_least": 0.9}, True),
        (0.89, {"at_least": 0.9}, False),
        (0.04, {"at_most": 0.05}, True),
        (0.06, {"at_most": 0.05}, False),
    ],
)
def test_bars_are_compared_the_right_way_round(value, bar, reached):
    row = timing.judge([value], **bar)
    assert row["reached"] is reached and row["bar"] == bar


def test_images_per_second_are_of_the_median():
    record = {"rounds": 1, "timings": {}}
    timing.take_turns(record, {"a": lambda: None}, images=10)
    (row,) = record["timings"].values()
    assert row["images per second"] == 10 / row["median"] == 10 / row["seconds"][0]


@pytest.mark.parametrize(
    "names, group",
    [
        (["aten::mul_", "Optimizer.step#SGD.step", "step"], "optimiser"),
        (["aten::copy_", "aten::_to_copy", "aten::to", "aten::conv2d"], "copies and casts"),
        (["aten::convolution_backward", "ConvolutionBackward0"], "convolution backward"),
        (["aten::empty", "ConvolutionBackward0", "step"], "convolution backward"),
        (["aten::mkldnn_convolution", "aten::convolution"], "convolution forward"),
        (["aten::empty", "aten::native_batch_norm"], "batch norm"),
        (["aten::native_batch_norm_backward", "NativeBatchNormBackward0"], "batch norm"),
        (["aten::clamp_min_", "aten::relu_"], "elementwise"),
        (["aten::threshold_backward", "ReluBackward0"], "elementwise"),
        (["aten::addmm", "aten::linear"], "rest"),
        (["step"], "rest"),
    ],
)
def test_operations_are_grouped(names, group):
    assert timing.group(names) == group


def test_profile_shares_add_up_to_one(capfd):
    run = TINY.trainer(TINY.small, TINY.images())
    shares = timing.profile(TINY.step(run, TINY.images()))
    assert list(shares) == GROUPS
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share > 0 for share in shares.values())
    assert "profiler" not in capfd.readouterr().err


def test_the_profile_is_that_of_the_fastest_step(monkeypatch):
    times = [{"optimiser": slow, "rest": 1.0} for slow in (9.0, 7.0, 3.0, 5.0, 8.0)]
    monkeypatch.setattr(timing, "_times", lambda step: times.pop())
    assert timing.profile(list) == {"optimiser": 0.75, "rest": 0.25} and not times


def test_matrix_products_of_every_size_have_the_same_flops(monkeypatch):
    flops = []
    monkeypatch.setattr(torch, "mm", lambda a, b, out: flops.append(2 * len(a) ** 3))
    for product in bench.matrix_products((4, 8), "bf16").values():
        product()
    assert flops == [128] * 8 + [1024]


@pytest.mark.parametrize(
    "first, eager, compiled, seconds, steps",
    [(41.5, 2.0, 1.5, 40.0, 80), (11.0, 1.0, 1.0, 10.0, None), (0.5, 2.0, 1.0, 0.0, 0)],
)
def test_compiling_pays_after_its_cost_over_the_gain(first, eager, compiled, seconds, steps):
    paid = timing.break_even(first, eager, compiled)
    assert paid == {"seconds": seconds, "pays after steps": steps}


def test_rival_sees_the_same_images():
    images = TINY.images()
    samples = bench.pil_images(images)
    samples.transform.transforms = samples.transform.transforms[2:]
    pixels, labels = zip(*(samples[i] for i in range(len(samples))))
    normalised = data.normalise(images.images, images.mean, images.std)
    torch.testing.assert_close(torch.stack(pixels), normalised.cpu())
    assert list(labels) == images.labels.tolist()


def bars(record):
    return [row["bar"] for row in record["results"].values() if row["bar"]]


def test_every_comparison_is_in_the_record(record):
    jsonschema.validate(record, timing.SCHEMA)
    assert bars(record) == [
        *({"at_least": 0.9}, {"at_least": 2}, {"at_least": 3}),
        *({"at_most": 0.05}, {"at_most": 0.3}),
    ]
    assert all(len(row["seconds"]) == record["rounds"] for row in record["timings"].values())
    assert all(list(shares) == GROUPS for shares in record["profiles"].values())
    assert len(record["profiles"]) == 2
    for name in ("0 workers", f"{torch.get_num_threads()} workers"):
        assert sum(title.endswith(name) for title in record["timings"]) == 2


@pytest.mark.parametrize("path", sorted(records.COMMITTED.glob("bench-*.json")), ids=str)
def test_our_benchmarks_are_records_of_a_clean_commit(record, path):
    ours = json.loads(path.read_text("utf-8"))
    jsonschema.validate(ours, timing.SCHEMA)
    assert ours["provenance"]["git clean"]
    assert ours["workload"] == json.loads(json.dumps(dataclasses.asdict(bench.Workload())))
    assert bars(ours) == bars(record)


def test_tskd_step_has_all_terms():
    images = TINY.images()
    run = TINY.trainer(TINY.small, images, "tskd")
    terms = TINY.step(run, images, "tskd")()
    assert {"label", "teacher", "self", "feature"} < set(terms)


def test_compile_that_fails_is_recorded_with_its_reason(record):
    reason = {"reason": "RuntimeError: no working C++ compiler"}
    assert record["compile"] == {"resnet8": reason, "resnet10": reason}
    assert not any("compiled" in name for name in [*record["results"], *record["timings"]])


def test_compile_that_works_is_recorded(monkeypatch):
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compile(net, backend="eager"))
    record = {"rounds": 1, "timings": {}, "results": {}, "compile": {}}
    bench.compiling(record, TINY, TINY.small)
    assert list(record["compile"]["resnet8"]) == ["seconds", "pays after steps"]
    assert "resnet8, compiled / eager, images/s" in record["results"]


def test_table_names_everything_measured(record):
    text = timing.table(record)
    for part in ("results", "timings", "profiles", "compile"):
        assert all(name in text for name in record[part])
    assert "at least 0.9: " in text and "no working C++ compiler" in text


def test_record_is_written_whole_or_not_at_all(record, tmp_path):
    path = tmp_path / "new" / "bench.json"
    timing.write(record, path)
    written = path.read_text()
    assert json.loads(written) == json.loads(json.dumps(record))
    broken = {**record, "rounds": 0}
    with pytest.raises(jsonschema.ValidationError):
        timing.write(broken, path)
    assert path.read_text() == written and list(path.parent.iterdir()) == [path]


def test_rounds_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        bench.measure(0, TINY)
