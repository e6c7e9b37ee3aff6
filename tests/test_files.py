"""What is read from files: torchvision's data sets, class folders, photographs, and damage."""

import contextlib
import functools
import gzip
import hashlib
import io
import os
import pickle
import re
import shutil
import struct
import sys
import tarfile
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from tskd_lib import data, files
from tskd_lib.data import load
from tskd_lib.files import DataError


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Torchvision's data sets, small: files in its own layout, with checksums of their own


@pytest.fixture(scope="module")
def small_cifar100(tmp_path_factory):
    """A folder with cifar-100-python, 6 and 3 images, and what they hold."""
    return write_cifar(tmp_path_factory.mktemp("cifar"), torchvision.datasets.CIFAR100)


def write_cifar(root, kind):
    folder = root / kind.base_folder
    folder.mkdir()
    labels = "fine_labels" if kind is torchvision.datasets.CIFAR100 else "labels"
    names = [f"name {i}" for i in range(4)]
    truth = {"names": tuple(names), "md5": {}, "data": [], "labels": []}
    for place, (file, _) in enumerate(kind.train_list + kind.test_list):
        count = 6 if place == 0 else 3
        rows = pixels(count, 3 * 32 * 32, seed=place)
        entry = {"data": rows, labels: [i % 4 for i in range(count)], "filenames": ["x"] * count}
        (folder / file).write_bytes(pickle.dumps(entry))
        truth["data"].append(torch.from_numpy(rows.reshape(count, 3, 32, 32)))
        truth["labels"].append(entry[labels])
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}))
    for file in folder.iterdir():
        truth["md5"][file.name] = hashlib.md5(file.read_bytes()).hexdigest()
    return root, truth


def expect(monkeypatch, kind, md5):
    """Let torchvision's class expect the checksums of our small files."""
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(kind, part, [[name, md5[name]] for name, _ in getattr(kind, part)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5[kind.meta["filename"]]})


def no_network(monkeypatch, kind):
    monkeypatch.setattr(kind, "url", "http://127.0.0.1:9/nothing.tar.gz", raising=False)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_as_it_is_written(monkeypatch, tmp_path, name):
    kind = getattr(torchvision.datasets, files.TORCHVISION[name][0])
    root, truth = write_cifar(tmp_path, kind)
    expect(monkeypatch, kind, truth["md5"])
    no_network(monkeypatch, kind)
    train, test = load(name, root)
    count = len(kind.train_list)
    assert torch.equal(train.images, torch.cat(truth["data"][:count]))
    assert torch.equal(test.images, torch.cat(truth["data"][count:]))
    assert train.labels.tolist() == sum(truth["labels"][:count], [])
    assert test.labels.tolist() == sum(truth["labels"][count:], [])
    assert train.classes == test.classes == truth["names"]
    assert (test.mean, test.std) == (train.mean, train.std)
    assert load(name, root, image_size=8)[0].shape == (3, 8, 8)


def write_fashion_mnist(folder):
    """Its four files with few scans; the scans of both parts."""
    folder.mkdir(parents=True)
    truth = {}
    for part, count in (("train", 5), ("t10k", 2)):
        scans, labels = pixels(count, 28, 28, seed=count), np.arange(count, dtype=np.uint8)
        header = struct.pack(">iiii", 2051, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + scans.tobytes())
        header = struct.pack(">ii", 2049, count)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
        truth[part] = scans
    return truth


def test_fashion_mnist_is_read_as_it_is_written(tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    truth = write_fashion_mnist(folder)
    parts = load("fashion-mnist", tmp_path, download=False)
    for part, scans in zip(parts, truth.values()):
        assert (part.images[:, 0].numpy() == scans).all()
        assert part.labels.tolist() == list(range(len(scans)))
        assert len(part.classes) == 10 and "Sandal" in part.classes
    cut = folder / "train-images-idx3-ubyte"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(DataError, match="fashion-mnist"):
        load("fashion-mnist", tmp_path, download=False)


def test_labels_out_of_range_are_refused(monkeypatch, tmp_path):
    kind = torchvision.datasets.CIFAR100
    root, truth = write_cifar(tmp_path, kind)
    meta = tmp_path / kind.base_folder / "meta"
    meta.write_bytes(pickle.dumps({"fine_label_names": ["only", "three", "names"]}))
    truth["md5"]["meta"] = hashlib.md5(meta.read_bytes()).hexdigest()
    expect(monkeypatch, kind, truth["md5"])
    with pytest.raises(DataError, match="labels go from 0 to 3, but 3 classes"):
        load("cifar100", root)


def files_below(folder):
    found = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return sorted(name for name in found if name != files.LOCK)


@contextlib.contextmanager
def serving(handler, monkeypatch):
    """A real server on this machine; its address."""
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


@pytest.fixture
def server(monkeypatch, small_cifar100):
    """CIFAR-100 from a real server on this machine; `.answer` says how it behaves."""
    root, truth = small_cifar100
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(root / "cifar-100-python", "cifar-100-python")
    archive = buffer.getvalue()

    class Handler(BaseHTTPRequestHandler):
        answer = "whole"
        requests = 0

        def do_GET(self):
            Handler.requests += 1
            body = {"whole": archive, "cut": archive[: len(archive) // 2], "refused": b""}.get(
                self.answer, archive[:-1] + bytes([archive[-1] ^ 1])
            )
            self.send_response(404 if self.answer == "refused" else 200)
            self.send_header("Content-Length", str(len(archive)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    kind = torchvision.datasets.CIFAR100
    expect(monkeypatch, kind, truth["md5"])
    with serving(Handler, monkeypatch) as address:
        monkeypatch.setattr(kind, "url", f"{address}c.tar.gz")
        monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive).hexdigest())
        yield Handler


def test_a_download_arrives_and_is_not_repeated(server, tmp_path, small_cifar100):
    train, _ = load("cifar100", tmp_path / "new" / "folder")
    assert torch.equal(train.images, small_cifar100[1]["data"][0])
    here = files_below(tmp_path / "new" / "folder")
    assert here == [
        "cifar-100-python",
        *(f"cifar-100-python/{f}" for f in ("meta", "test", "train")),
    ]
    requests = server.requests
    load("cifar100", tmp_path / "new" / "folder")
    assert server.requests == requests


def test_a_download_of_several_files_arrives(monkeypatch, tmp_path):
    kind, published = torchvision.datasets.FashionMNIST, tmp_path / "published"
    truth, sums = write_fashion_mnist(published), []
    for path in sorted(published.iterdir()):
        packed = gzip.compress(path.read_bytes())
        (published / f"{path.name}.gz").write_bytes(packed)
        sums.append((f"{path.name}.gz", hashlib.md5(packed).hexdigest()))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(published))
    with serving(handler, monkeypatch) as address:
        monkeypatch.setattr(kind, "mirrors", [address])
        monkeypatch.setattr(kind, "resources", [*sums[:-1], (sums[-1][0], "0" * 32)])
        with pytest.raises(DataError, match="could not be downloaded"):
            load("fashion-mnist", tmp_path / "new")
        assert files_below(tmp_path / "new") == []
        monkeypatch.setattr(kind, "resources", sums)
        train, test = load("fashion-mnist", tmp_path / "new")
    for part, scans in zip((train, test), truth.values()):
        assert (part.images[:, 0].numpy() == scans).all()
    assert load("fashion-mnist", tmp_path / "new", download=False)[0].checksum() == train.checksum()


@pytest.mark.parametrize("answer", ["cut", "altered", "refused"])
def test_a_bad_download_leaves_nothing(server, tmp_path, answer):
    server.answer = answer
    expected = tmp_path / "cifar-100-python"
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        load("cifar100", tmp_path)
    assert f"expected its files in {expected}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == []
    server.answer = "whole"
    assert len(load("cifar100", tmp_path)[0]) == 6


def test_an_interrupted_download_leaves_nothing(server, monkeypatch, tmp_path):
    def interrupt(*arguments, **options):
        found = files_below(tmp_path)
        assert any(name.endswith("cifar-100-python.tar.gz") for name in found)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torchvision.datasets.utils, "extract_archive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load("cifar100", tmp_path)
    assert files_below(tmp_path) == []
    assert len(load("cifar100", tmp_path)[0]) == 6


def test_what_a_killed_download_left_is_removed(server, tmp_path):
    (tmp_path / ".download-killed").mkdir()
    (tmp_path / ".download-killed" / "cifar-100-python.tar.gz").write_bytes(b"half")
    assert len(load("cifar100", tmp_path)[0]) == 6
    assert not list(tmp_path.glob(".download-*"))


def test_one_of_several_downloads_and_the_others_wait(server, monkeypatch, tmp_path):
    original, here = files._download, threading.Barrier(3)

    def held(*arguments):
        assert server.requests == 0
        original(*arguments)

    def wait_and_load(_):
        here.wait()
        return load("cifar100", tmp_path)[0].checksum()

    monkeypatch.setattr(files, "_download", held)
    with ThreadPoolExecutor(3) as pool:
        assert len(set(pool.map(wait_and_load, range(3)))) == 1
    assert files_below(tmp_path) == [
        "cifar-100-python",
        *(f"cifar-100-python/{f}" for f in ("meta", "test", "train")),
    ]


def test_files_that_are_not_as_published_are_replaced(server, tmp_path):
    load("cifar100", tmp_path)
    file = tmp_path / "cifar-100-python" / "train"
    right = file.read_bytes()
    file.write_bytes(right[:-1] + b"?")
    with pytest.raises(DataError, match="cifar100 is not complete in .*cifar-100-python"):
        load("cifar100", tmp_path, download=False)
    assert len(load("cifar100", tmp_path)[0]) == 6
    assert file.read_bytes() == right


@pytest.mark.parametrize("name", files.TORCHVISION)
def test_offline_names_the_expected_folder(monkeypatch, tmp_path, name):
    kind = getattr(torchvision.datasets, files.TORCHVISION[name][0])
    monkeypatch.setenv("no_proxy", "*")
    no_network(monkeypatch, kind)
    monkeypatch.setattr(
        kind, "mirrors", ["http://127.0.0.1:9/", "http://127.0.0.1:10/"], raising=False
    )
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        load(name, tmp_path)
    assert str(tmp_path / files.TORCHVISION[name][1]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == []


def test_files_that_may_not_be_read_are_left_alone(monkeypatch, tmp_path):
    kind = torchvision.datasets.CIFAR100

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path / "train"))

    monkeypatch.setattr(kind, "__init__", refuse)
    with pytest.raises(DataError, match=r"train cannot be read \(Permission denied\)"):
        load("cifar100", tmp_path)


def test_damaged_pickles_are_reported(monkeypatch, tmp_path):
    kind = torchvision.datasets.CIFAR100
    root, truth = write_cifar(tmp_path, kind)
    train = root / kind.base_folder / "train"
    train.write_bytes(b"not a pickle")
    truth["md5"]["train"] = hashlib.md5(train.read_bytes()).hexdigest()
    expect(monkeypatch, kind, truth["md5"])
    with pytest.raises(DataError, match="cifar100 in .*cifar-100-python is damaged .* delete it"):
        load("cifar100", root)


def test_the_real_cifar100(real_images):
    train, test = real_images("cifar100")
    assert (len(train), len(test), train.shape, len(train.classes)) == (
        50_000,
        10_000,
        (3, 32, 32),
        100,
    )
    assert (torch.bincount(train.labels) == 500).all() and (
        torch.bincount(test.labels) == 100
    ).all()
    assert train.mean == pytest.approx((0.5071, 0.4865, 0.4409), abs=5e-5)
    assert train.std == pytest.approx((0.2673, 0.2564, 0.2762), abs=5e-5)
    assert train.classes[:3] == ("apple", "aquarium_fish", "baby")


# Folders


def save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)


@pytest.fixture
def tree(tmp_path):
    """Two classes, eight images each, 6 x 5, lossless."""
    for label, name in enumerate(("cat", "dog")):
        for i in range(8):
            save(tmp_path / name / f"{i}.png", pixels(5, 6, 3, seed=10 * label + i))
    return tmp_path


def test_a_folder_is_split_by_class(tree):
    train, test = load("folder", tree)
    assert train.classes == test.classes == ("cat", "dog")
    assert torch.bincount(train.labels).tolist() == [6, 6]
    assert torch.bincount(test.labels).tolist() == [2, 2]
    truth = {pixels(5, 6, 3, seed=10 * c + i).tobytes(): c for c in range(2) for i in range(8)}
    for part in (train, test):
        for image, label in zip(part.images.movedim(1, -1), part.labels):
            assert truth.pop(image.contiguous().numpy().tobytes()) == label
    assert not truth
    again, _ = load("folder", tree)
    assert again.checksum() == train.checksum()


@pytest.mark.parametrize("part, other", [("Train", "test or"), ("val", "train or")])
def test_a_part_without_the_other_is_not_a_class(tree, part, other):
    for name in ("cat", "dog"):
        shutil.move(tree / name, tree / part / name)
    shutil.copytree(tree / part / "cat", tree / "documents")
    place = re.escape(str(tree / part))
    with pytest.raises(DataError, match=f"folders in {part}, but no folder {other}.* give {place}"):
        load("folder", tree)
    shutil.copytree(tree / part / "dog", tree / "more" / part)  # a class of that name
    shutil.move(tree / "documents", tree / "more" / "plane")
    assert load("folder", tree / "more")[0].classes == tuple(sorted(["plane", part]))


def test_a_folder_may_be_below_home(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree.parent))
    monkeypatch.setenv("USERPROFILE", str(tree.parent))
    assert len(load("folder", f"~/{tree.name}")[0]) == 12


@pytest.mark.parametrize(
    "training, held_out", [*product(data.TRAINING, data.HELD_OUT), ("Training", "TEST")]
)
def test_an_official_division_of_a_folder_is_kept(tmp_path, training, held_out):
    for part, count in ((training, 3), (held_out, 2)):
        for label, name in enumerate("ab"):
            for i in range(count):
                save(
                    tmp_path / part / name / f"{i}.bmp", np.full((4, 4), 100 * label + i, np.uint8)
                )
    train, test = load("folder", tmp_path)
    assert (len(train), len(test)) == (6, 4)
    assert train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert test.images[:, 0, 0, 0].tolist() == [0, 1, 100, 101]
    assert train.mean == test.mean
    save(tmp_path / held_out / "c" / "0.bmp", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="same class folders"):
        load("folder", tmp_path)
    shutil.rmtree(tmp_path / held_out / "c")
    for file in (tmp_path / held_out).rglob("*.bmp"):
        save(file, np.zeros((5, 5), np.uint8))
    with pytest.raises(DataError, match="differ in image size; give an image size"):
        load("folder", tmp_path)
    assert load("folder", tmp_path, image_size=4)[1].shape == (3, 4, 4)


def test_formats_and_modes_become_colour(tmp_path):
    colour, grey = np.full((4, 4, 3), (200, 100, 50), np.uint8), np.full((4, 4), 90, np.uint8)
    save(tmp_path / "a" / "1.jpg", colour, quality=100, subsampling=0)
    save(tmp_path / "a" / "2.JPEG", grey)
    save(tmp_path / "a" / "3.bmp", colour)
    save(tmp_path / "b" / "1.png", colour, "RGBA")
    save(tmp_path / "b" / "2.png", colour, "P")
    save(tmp_path / "b" / "deep" / "er" / "3.png", grey)
    save(tmp_path / "b" / "4.png", grey > 50)
    save(tmp_path / ".hidden" / "1.png", colour)
    save(tmp_path / "a" / ".checkpoints" / "1.png", colour)
    (tmp_path / "a" / "._1.jpg").write_bytes(b"what a file system left")
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "list.csv").write_text("not a class")
    found = data.read_folder(tmp_path)
    assert found.classes == ("a", "b") and found.labels.tolist() == [0] * 3 + [1] * 4
    assert found.shape == (3, 4, 4)
    expected = torch.tensor([[200, 100, 50], [90] * 3, [200, 100, 50], [200, 100, 50]])
    assert (found.images[:4, :, 1, 2].int() - expected).abs().max() <= 3
    assert (found.images[4, :, 1, 2].int() - expected[0]).abs().max() <= 30  # the web palette
    assert found.images[5:, :, 1, 2].tolist() == [[255] * 3, [90] * 3]


def test_mixed_sizes_need_an_image_size(tree):
    save(tree / "dog" / "9.png", pixels(3, 3, 3))
    with pytest.raises(DataError, match="9.png is 3 x 3, .*0.png is 6 x 5; give an image size"):
        load("folder", tree)
    assert load("folder", tree, image_size=4)[0].shape == (3, 4, 4)


def test_files_are_resized_to_height_and_width(tmp_path):
    save(tmp_path / "1.png", np.full((9, 7, 3), 40, np.uint8))
    assert files.read_images([tmp_path / "1.png"], 1, (4, 6)).shape == (1, 4, 6, 1)
    assert (files.read_images([tmp_path / "1.png"], 3, (4, 6)) == 40).all()


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "gif", "tiff", "webp", "ppm"])
def test_a_damaged_image_is_named(tmp_path, recwarn, kind):
    path = tmp_path / f"photo.{kind}"
    save(path, pixels(12, 12, 3))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for trial in range(30):
        damaged = bytearray(whole[: random.integers(len(whole))] if trial % 2 else whole)
        for place in random.integers(0, max(1, len(damaged)), 3):
            damaged[place : place + 1] = bytes([random.integers(256)])
        path.write_bytes(damaged)
        try:
            assert files.read_images([path], 3, None).dtype == np.uint8
        except DataError as error:
            assert str(error).startswith(f"{path} cannot be read as an image (")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read as an image"):
        files.read_images([path], 3, None)
    assert not recwarn.list, "the sentence is all"


def test_a_photograph_is_read_as_the_camera_was_held(tmp_path):
    upright = pixels(8, 12, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by a quarter, clockwise
    turned = Image.fromarray(np.rot90(upright).copy())
    turned.save(tmp_path / "photo.png", exif=exif)
    assert (files.read_images([tmp_path / "photo.png"], 3, None)[0] == upright).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white(tmp_path, mode):
    logo = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    logo.putpixel((1, 0), (0, 0, 0, 255))
    logo.convert(mode).save(tmp_path / "logo.png")
    for channels in (1, 3):
        read = files.read_images([tmp_path / "logo.png"], channels, None)
        assert read.reshape(2, channels).tolist() == [[255] * channels, [0] * channels]


def test_a_missing_image_is_named_once(tmp_path):
    with pytest.raises(DataError) as caught:
        files.read_images([tmp_path / "none.png"], 3, None)
    reason = os.strerror(2)
    assert str(caught.value) == f"{tmp_path / 'none.png'} cannot be read as an image ({reason})"


def test_more_than_8_bits_are_refused(tmp_path):
    save(tmp_path / "deep.png", np.full((4, 4), 40_000, np.uint16))
    with pytest.raises(
        DataError, match=r"deep.png cannot be read .*\(more than 8 bits a channel; convert"
    ):
        files.read_images([tmp_path / "deep.png"], 1, None)


def test_folders_that_are_no_data_set_are_refused(tree):
    for name, message in {
        "none": "none cannot be read .*expected a folder of images for each class in",
        "cat/0.png": "0.png cannot be read .*expected a folder of images for each class in",
        "cat": "two or more classes: found 0 folders",
    }.items():
        with pytest.raises(DataError, match=message):
            load("folder", tree / name)
    (tree / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no image"):
        load("folder", tree)
    for name in ("empty", "dog"):
        shutil.rmtree(tree / name)
    with pytest.raises(DataError, match="two or more classes: found 1 folders"):
        load("folder", tree)
    save(tree / "dog" / "0.png", pixels(5, 6, 3))
    with pytest.raises(DataError, match="too few"):
        load("folder", tree)


@pytest.fixture
def unprivileged():
    """A folder of a user whom permissions bind: root gives up its powers for the test."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0
    yield folder, (lambda: os.seteuid(65534)) if root else (lambda: None)
    if root:
        os.seteuid(0)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
@pytest.mark.parametrize(
    "locked", ["", "photos", "photos/cat", "photos/dog/deep", "photos/cat/0.png"]
)
def test_permission_denied_is_one_sentence(unprivileged, locked):
    folder, drop = unprivileged
    for name in ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "dog/deep/2.png"):
        save(folder / "photos" / name, pixels(4, 4, 3))
    (folder / locked).chmod(0)
    drop()
    with pytest.raises(DataError, match=os.strerror(13)) as caught:
        load("folder", folder / "photos")
    assert str(folder / (locked or "photos")) in str(caught.value)
