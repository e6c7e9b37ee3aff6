"""Checkpoints: bit for bit, all or nothing, and clear about what is wrong with one."""

import errno
import json
import os

import pytest
import torch

from tskd_lib import checkpoints
from tskd_lib.checkpoints import CheckpointError, load_network, read, save_network, write

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32]
DTYPES += [torch.uint8, torch.bool]


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    made = {f"{dtype}": (10 * noise(3, 4)).to(dtype) for dtype in DTYPES}
    made |= {"scalar": noise()[()], "empty": noise(0, 3), "turned": noise(4, 5).T}
    made["channels last"] = noise(2, 3, 4, 5).to(memory_format=torch.channels_last)
    made["odd"] = torch.tensor([0.0, -0.0, torch.inf, torch.nan, 1e-45])
    made["a/b.c d"] = noise(7).requires_grad_()
    return made


def bits(tensor):
    return (
        tensor.dtype,
        tensor.shape,
        tensor.detach().contiguous().flatten().view(torch.uint8).tolist(),
    )


def assert_is(found, seed):
    expected = tensors(seed)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert bits(found[name]) == bits(tensor), name


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    path = tmp_path / "new" / "folder" / "run.json"
    sha256 = write(path, tensors(), {"epoch": 3, "name": "é", "list": [1, None, 0.1]})
    found, about = read(path)
    assert_is(found, 0)
    assert (about["epoch"], about["name"], about["list"]) == (3, "é", [1, None, 0.1])
    assert about["sha256"] == sha256 == checkpoints.digest(tensors())
    assert sorted(contents(path.parent)) == [f"run-{sha256[:8]}.safetensors", "run.json"]


def test_a_new_checkpoint_replaces_the_old_and_no_other(tmp_path):
    for name in ("run.json", "run-2.json", "other.json", "odd[1].json"):
        write(tmp_path / name, tensors(0), {})
    neighbours = {
        k: v for k, v in contents(tmp_path).items() if not k.startswith("run-") or "2" in k
    }
    for name in ("run.json", "odd[1].json"):
        write(tmp_path / name, tensors(1), {"epoch": 2})
        assert_is(read(tmp_path / name)[0], 1)
    assert len(contents(tmp_path)) == 8, "one JSON file and one of weights each"
    for name in ("run-2.json", "other.json"):
        assert_is(read(tmp_path / name)[0], 0)
        assert contents(tmp_path)[name] == neighbours[name]
    write(tmp_path / "run.json", tensors(1), {"epoch": 3})
    assert read(tmp_path / "run.json")[1]["epoch"] == 3
    checkpoints.remove(tmp_path / "run.json")
    assert len(contents(tmp_path)) == 6
    assert_is(read(tmp_path / "run-2.json")[0], 0)


class Killed(BaseException):
    """Nothing is cleaned up after it, as after a real kill."""


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("time", [0, 1])
def test_killed_at_any_step_the_old_checkpoint_is_there(tmp_path, monkeypatch, call, time):
    path = tmp_path / "run.json"
    write(path, tensors(0), {"epoch": 1})
    calls, real = [], getattr(os, call)

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) > time:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, stop)
        patch.setattr(checkpoints.Path, "unlink", lambda *a, **k: None)
        with pytest.raises(Killed):
            write(path, tensors(1), {"epoch": 2})
    found, about = read(path)
    assert_is(found, 0)
    assert about["epoch"] == 1
    write(path, tensors(2), {"epoch": 3})
    assert_is(read(path)[0], 2)
    weights = [name for name in contents(tmp_path) if name.endswith(".safetensors")]
    assert len(weights) == 1, "what the killed one left is cleared away"


def test_killed_after_the_last_rename_the_new_checkpoint_is_there(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write(path, tensors(0), {"epoch": 1})
    real = checkpoints.Path.unlink

    def stop(self, missing_ok=False):
        if self.suffix == ".safetensors":
            raise Killed
        real(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Path, "unlink", stop)
        with pytest.raises(Killed):
            write(path, tensors(1), {"epoch": 2})
    found, about = read(path)
    assert_is(found, 1)
    assert about["epoch"] == 2


@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize("old", [True, False])
def test_a_full_disk_changes_nothing(tmp_path, monkeypatch, time, old):
    path = tmp_path / "run.json"
    if old:
        write(path, tensors(0), {})
    before, calls, real = contents(tmp_path), [], os.fsync

    def full(file):
        calls.append(file)
        if len(calls) > time:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError) as caught:
            write(path, tensors(1), {})
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path / "run") in caught.value.filename
    assert contents(tmp_path) == before


def test_what_is_no_json_changes_nothing(tmp_path):
    path = tmp_path / "run.json"
    write(path, tensors(0), {})
    before = contents(tmp_path)
    with pytest.raises(TypeError):
        write(path, tensors(1), {"what": object()})
    assert contents(tmp_path) == before


def test_one_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.txt"
    checkpoints.write_atomically(path, b"old")
    seen = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(path.read_bytes()), real(a, b)))
    checkpoints.write_atomically(path, b"new")
    assert (seen, path.read_bytes()) == ([b"old"], b"new")
    assert contents(path.parent).keys() == {"file.txt"}
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught:
        checkpoints.write_atomically(tmp_path / "folder", b"x")
    assert caught.value.filename == str(tmp_path / "folder")
    assert contents(path.parent).keys() == {"file.txt"}


# What is wrong with a checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoint of a small network, the network, and its images."""
    from tskd_lib import data
    from tskd_lib.exits import build_student

    folder = tmp_path_factory.mktemp("saved")
    pixels = torch.randint(256, (6, 8, 8), dtype=torch.uint8)
    images = data.from_arrays("mine", pixels, [0, 1, 2] * 2, "abc", image_size=8)
    network = build_student("resnet8", 3, images.shape, width=0.25, strength="separable", seed=1)
    network.train()
    for _ in range(3):  # batch-norm statistics that are not the initial ones
        network(data.normalise(images.images, images.mean, images.std))
    save_network(folder / "net.json", network, images)
    return folder, network, images


@pytest.fixture
def copied(saved, tmp_path):
    """The JSON file of a copy of that checkpoint, to be damaged."""
    for name, content in contents(saved[0]).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path / "net.json"


def weights_of(path):
    return next(path.parent.glob("*.safetensors"))


def edit(path, change):
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def test_a_network_answers_as_before(saved):
    folder, network, images = saved
    loaded, about = load_network(folder / "net.json")
    assert not loaded.training
    batch = torch.randn(4, *images.shape)
    expected = network.eval()(batch)
    for found, one in zip(loaded(batch), expected):
        assert torch.equal(found, one)
    assert loaded.exits == network.exits and loaded.config == network.config
    assert (about["dataset"], about["classes"]) == ("mine", ["a", "b", "c"])
    assert (tuple(about["mean"]), tuple(about["std"])) == (images.mean, images.std)


def test_every_damaged_byte_of_the_weights_is_noticed(copied):
    weights = weights_of(copied)
    whole = weights.read_bytes()
    for place in [*range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1]:
        weights.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match="is damaged: wrong SHA-256"):
            load_network(copied)
    for size in (0, 1, 100, len(whole) - 1):
        weights.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=f"{weights.name} is damaged"):
            load_network(copied)


def test_a_damaged_description_is_a_sentence_or_harmless(copied):
    whole = copied.read_bytes()
    for place in range(0, len(whole), 5):
        for damaged in (
            whole[:place],
            whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :],
        ):
            copied.write_bytes(damaged)
            try:
                _, about = load_network(copied)
            except CheckpointError as error:
                assert "\n" not in str(error) and str(copied.parent) in str(error)
            else:
                assert len(about["classes"]) == 3 and len(about["mean"]) == len(about["std"]) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "there is no checkpoint file .*net.json"),
        (lambda path: weights_of(path).unlink(), "there is no checkpoint file .*safetensors"),
        (lambda path: path.write_text("not JSON"), "net.json is not a checkpoint of tskd"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "net.json is not a checkpoint of tskd"),
        (lambda path: path.write_text("[1]"), "net.json is not a checkpoint of tskd"),
        (lambda path: path.write_text('{"format": 1}'), "net.json is not a checkpoint of tskd"),
        (lambda path: edit(path, lambda a: a.update(weights=5)), "not a checkpoint of tskd"),
        (lambda path: edit(path, lambda a: a.update(weights="")), "net.json cannot be read"),
        (lambda path: edit(path, lambda a: a.update(kind="state")), "not a network's checkpoint"),
        (lambda path: edit(path, lambda a: a.pop("kind")), "not a network's checkpoint"),
        *(
            (lambda path, key=key: edit(path, lambda a: a.pop(key)), "do not fit")
            for key in ("network", "dataset", "classes", "mean", "std")
        ),
        *(
            (lambda path, new=new: edit(path, lambda a: a["network"].update(new)), "do not fit")
            for new in (
                {"name": "resnet14"},
                {"name": "resnet9"},
                {"width": 0.5},
                {"width": "wide"},
                {"width": 1e400},
                {"classes": 4},
                {"exits": "deepest"},
                {"exits": 3},
                {"input_shape": [3, 8, 8]},
                {"input_shape": [1]},
                {"strength": "byot"},
                {"colour": "blue"},
            )
        ),
        (lambda path: edit(path, lambda a: a["classes"].pop()), "do not fit"),
        (lambda path: edit(path, lambda a: a["mean"].append(0.5)), "do not fit"),
        (lambda path: edit(path, lambda a: a.update(std=None)), "do not fit"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(copied, damage, message):
    damage(copied)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_network(copied)
    assert "\n" not in str(caught.value)


def test_a_network_that_is_not_known_here_is_named(copied):
    edit(copied, lambda about: about["network"].update(name="mine"))
    with pytest.raises(CheckpointError, match=r"do not fit \(unknown network 'mine'; known are"):
        load_network(copied)


def test_weights_of_another_network_do_not_fit(copied):
    sha256 = write(copied.with_name("other.json"), {"stem.weight": torch.ones(2)}, {})
    edit(copied, lambda a: a.update(weights=f"other-{sha256[:8]}.safetensors", sha256=sha256))
    with pytest.raises(CheckpointError, match="its weights and its description do not fit"):
        load_network(copied)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path)
