"""Images: what is read is what is there, splits are fair, augmentation does what it says."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tskd_lib import data
from tskd_lib.data import Augment, DataError, Images, batches, from_arrays, load, normalise, split

CASES = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def images(labels, height=6, width=6, seed=0):
    """`Images` with these labels and noise for pixels."""
    names = [f"class {i}" for i in range(max(labels, default=0) + 1)]
    return from_arrays("noise", pixels(len(labels), height, width, 3, seed=seed), labels, names)


def numbered(count, classes=3):
    """`Images` whose pixels tell which image it is."""
    values = np.arange(count, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    names = [str(i) for i in range(classes)]
    return from_arrays("numbered", values, [i % classes for i in range(count)], names)


def numbers(part):
    return part.images[:, 0, 0, 0].tolist()


# One type


def test_digits_are_all_there():
    train, test = load("digits")
    assert len(train) + len(test) == 1797
    assert train.shape == test.shape == (1, 16, 16)
    assert train.classes == tuple("0123456789")
    assert train.images.max() == 255 and train.images.min() == 0
    assert (train.mean, train.std) == (test.mean, test.std)
    plain, _ = load("digits", image_size=8)
    from sklearn.datasets import load_digits

    scans = {scan.tobytes() for scan in (load_digits().images * 255 / 16).round().astype(np.uint8)}
    assert {image.numpy().tobytes() for image in plain.images[:, 0]} <= scans


def test_an_image_keeps_its_label_and_its_pixels():
    raw = pixels(4, 5, 7, 3)
    made = from_arrays("x", raw, [2, 0, 1, 2], "abc")
    assert made.shape == (3, 5, 7) and made.images.is_contiguous()
    assert made.labels.tolist() == [2, 0, 1, 2] and made.classes == ("a", "b", "c")
    for i, c in np.ndindex(4, 3):
        assert (made.images[i, c].numpy() == raw[i, :, :, c]).all()
    grey = from_arrays("x", raw[..., 0], [0, 1, 0, 1], "ab")
    assert grey.shape == (1, 5, 7) and (grey.images[:, 0].numpy() == raw[..., 0]).all()
    masked = made.subset(made.labels == 2)
    assert torch.equal(masked.images, made.images[[0, 3]]) and len(made.subset([])) == 0
    part = made.subset([3, 0])
    assert part.labels.tolist() == [2, 2] and torch.equal(part.images, made.images[[3, 0]])
    assert made.to("cpu").checksum() == made.checksum()


def test_resizing_averages_and_keeps_flat_images_flat():
    raw = np.zeros((2, 8, 8), np.uint8)
    raw[0], raw[1, :, 4:] = 77, 255
    small = from_arrays("x", raw, [0, 1], "ab", image_size=4)
    assert small.shape == (1, 4, 4)
    assert (small.images[0] == 77).all()
    row = small.images[1, 0, 1].int()
    assert row[0] == 0 and row[3] == 255 and row[1] + row[2] == 255


def test_statistics_normalise_the_whole_set():
    made = images([0, 1] * 20, seed=3)
    float_images = normalise(made.images, made.mean, made.std)
    assert float_images.dtype == torch.float32
    assert float_images.is_contiguous(memory_format=torch.channels_last)
    flat = float_images.double().movedim(1, 0).flatten(1)
    assert flat.mean(1).abs().max() < 1e-6
    assert (flat.std(1, unbiased=False) - 1).abs().max() < 1e-6
    expected = (made.images[3, 1, 2, 4].item() / 255 - made.mean[1]) / made.std[1]
    assert float_images[3, 1, 2, 4].item() == pytest.approx(expected, rel=1e-5)
    constant = from_arrays("x", np.full((2, 3, 3), 9, np.uint8), [0, 1], "ab")
    assert normalise(constant.images, constant.mean, constant.std).isfinite().all()


def test_normalise_leaves_its_images_as_they_are():
    made = images([0, 1] * 20, seed=3)
    pixels = made.images.float().contiguous(memory_format=torch.channels_last)
    changed = normalise(pixels, made.mean, made.std)
    assert torch.equal(pixels, made.images.float())
    assert torch.equal(changed, normalise(made.images, made.mean, made.std))


def test_names_and_statistics_become_plain_text_and_numbers():
    pixels, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    numbers = {"mean": np.float32([0.5]), "std": (1,)}
    made = Images("mine", pixels, labels, classes=np.arange(2), **numbers)
    assert json.loads(json.dumps([made.classes, made.mean, made.std])) == [["0", "1"], [0.5], [1.0]]
    assert list(map(type, [*made.classes, *made.mean, *made.std])) == [str, str, float, float]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 1, 4, 4)}, "uint8"),
        ({"images": torch.zeros(2, 4, 4, dtype=torch.uint8)}, r"\[N, C, H, W\]"),
        ({"labels": torch.zeros(2, dtype=torch.int32)}, "int64"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "one for each image"),
        ({"labels": torch.tensor([0, 2])}, "labels go from 0 to 2, but 2 classes need 0 to 1"),
        ({"labels": torch.tensor([-1, 1])}, "labels go from -1 to 1"),
        ({"mean": (0.5, 0.5)}, "one value for each channel"),
        ({"std": ()}, "one value for each channel"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    right = {
        "name": "mine",
        "images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
        "labels": torch.tensor([0, 1]),
        "classes": ("a", "b"),
        "mean": (0.5,),
        "std": (0.2,),
    }
    Images(**right)
    with pytest.raises(DataError, match=f"^mine: .*{message}"):
        Images(**{**right, **change})


@pytest.mark.parametrize(
    ("pixels_", "labels", "message"),
    [
        (np.zeros((2, 4, 4)), [0, 1], "uint8"),
        (np.zeros((2, 4), np.uint8), [0, 1], r"\[N, H, W\]"),
        (np.zeros((2, 4, 4), np.uint8), [0.0, 0.7], "whole numbers"),
        (np.zeros((2, 4, 4), np.uint8), ["cat", "dog"], "arrays of numbers"),
        ([[1, 2], [3]], [0, 1], "arrays of numbers"),
        (np.zeros((2, 4, 4), np.uint8), [0, 2], "labels go from 0 to 2"),
        (np.zeros((2, 4, 4), np.uint8), [0], "one for each image"),
    ],
)
def test_arrays_that_are_no_labelled_images_are_refused(pixels_, labels, message):
    with pytest.raises(DataError, match=message):
        from_arrays("mine", pixels_, labels, "ab")


def test_the_checksum_depends_on_every_pixel_label_and_shape():
    one = images([0, 1, 2], 2, 3)
    sums = {one.checksum(), one.subset([1, 0, 2]).checksum(), one.subset([0, 1]).checksum()}
    for i in np.ndindex(3, 3, 2, 3):
        changed = one.images.clone()
        changed[i] ^= 1
        sums.add(data.replace(one, images=changed).checksum())
    for i in range(3):
        labels = one.labels.clone()
        labels[i] = (labels[i] + 1) % 3
        sums.add(data.replace(one, labels=labels).checksum())
    turned = one.images.reshape(3, 3, 3, 2)
    sums.add(data.replace(one, images=turned).checksum())
    assert len(sums) == 3 + 54 + 3 + 1
    assert images([0, 1, 2], 2, 3).checksum() == one.checksum()
    last = data.replace(one, images=one.images.contiguous(memory_format=torch.channels_last))
    assert last.checksum() == one.checksum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnist",), "unknown data set 'mnist'; known are digits, cifar10"),
        (("digits", "data", 0), "image size must be at least 1"),
    ],
)
def test_load_refuses(arguments, message):
    with pytest.raises(DataError, match=message):
        load(*arguments)


# Splits and subsets


@CASES
@given(
    labels=st.lists(st.integers(0, 3), max_size=80),
    shares=st.sampled_from([(0.75, 0.25), (0.6, 0.2, 0.2), (0.3, 0.3), (1.0,)]),
    seed=SEEDS,
)
def test_splits_are_disjoint_and_stratified(labels, shares, seed):
    labels = [*labels, *[0, 1, 2, 3] * 10]
    whole = numbered(len(labels), 4)
    whole = data.replace(whole, labels=torch.tensor(labels))
    parts = split(whole, shares, seed)
    taken = [i for part in parts for i in numbers(part)]
    assert len(set(taken)) == len(taken)
    if sum(shares) == pytest.approx(1):
        assert sorted(taken) == list(range(len(labels)))
    for part, share in zip(parts, shares):
        assert part.labels.tolist() == [labels[i] for i in numbers(part)]
        counts = torch.bincount(part.labels, minlength=4)
        assert ((counts - share * torch.bincount(whole.labels)).abs() <= 1).all()
    again = split(whole, shares, seed)
    assert [numbers(p) for p in again] == [numbers(p) for p in parts]


def test_another_seed_draws_another_split():
    whole = numbered(90)
    drawn = {tuple(numbers(split(whole, (0.5, 0.5), seed)[0])) for seed in range(20)}
    assert len(drawn) == 20
    hits = torch.zeros(90)
    for part in drawn:
        hits[list(part)] += 1
    assert hits.min() >= 1 and hits.max() <= 19, "every image may land in either part"


@pytest.mark.parametrize(
    "shares", [(), (0.5, 0.6), (0.5, 0.0), (-0.1, 0.5), (float("nan"), 0.5), (0.5, float("nan"))]
)
def test_shares_that_make_no_sense_are_refused(shares):
    with pytest.raises(DataError, match="shares must be positive and sum to at most 1"):
        split(numbered(30), shares, 0)


def test_a_class_that_is_too_small_to_split_is_refused():
    with pytest.raises(DataError, match="too few"):
        split(numbered(4), (0.75, 0.25), 0)


@CASES
@given(SEEDS)
def test_subsets_per_class_are_even_and_nested(seed):
    whole = numbered(60)
    few, more = data.per_class(whole, 3, seed), data.per_class(whole, 11, seed)
    assert torch.bincount(few.labels).tolist() == [3] * 3
    assert torch.bincount(more.labels).tolist() == [11] * 3
    assert set(numbers(few)) < set(numbers(more)) < set(range(60))
    assert (few.mean, few.std) == (whole.mean, whole.std)
    assert numbers(data.per_class(whole, 3, seed)) == numbers(few)


def test_another_seed_draws_another_subset():
    whole = numbered(60)
    assert len({tuple(numbers(data.per_class(whole, 5, seed))) for seed in range(20)}) == 20
    assert numbers(data.per_class(whole, 20, 0)) == list(range(60))


@pytest.mark.parametrize("count", [0, -1, 21])
def test_subsets_that_cannot_be_are_refused(count):
    with pytest.raises(DataError, match=f"20 to take from each class, {count} asked for"):
        data.per_class(numbered(60), count, 0)
    with pytest.raises(DataError, match="0 to take"):
        data.per_class(data.replace(numbered(60), classes=tuple("abcd")), 1, 0)


# Augmentation


def slow_augment(augment, batch, generator):
    """One image and one pixel after the other, with the same draws in the same order."""
    count, channels, height, width = batch.shape

    def draw(high):
        return torch.randint(high, (count,), generator=generator).tolist()

    tops, lefts = draw(2 * augment.pad + 1), draw(2 * augment.pad + 1)
    mirrored = draw(2) if augment.flip else [0] * count
    centres = list(zip(draw(height), draw(width))) if augment.erase else None
    result = torch.zeros_like(batch)
    for i, c, y, x in np.ndindex(*batch.shape):
        from_y, from_x = y + tops[i] - augment.pad, x + lefts[i] - augment.pad
        if 0 <= from_y < height and 0 <= from_x < width:
            result[i, c, y, x] = batch[i, c, from_y, width - 1 - from_x if mirrored[i] else from_x]
        if centres is not None:
            top, left = centres[i][0] - augment.erase // 2, centres[i][1] - augment.erase // 2
            if top <= y < top + augment.erase and left <= x < left + augment.erase:
                result[i, c, y, x] = 0
    return result


@CASES
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (5, 2, 6, 7))),
    pad=st.integers(0, 3),
    flip=st.booleans(),
    erase=st.integers(0, 8),
    seed=SEEDS,
)
def test_augmentation_is_what_a_slow_loop_does(shape, pad, flip, erase, seed):
    batch = torch.from_numpy(pixels(*shape, seed=seed))
    before, augment = batch.clone(), Augment(pad, flip, erase)
    fast, slow, again = (
        one(batch, torch.Generator().manual_seed(seed))
        for one in (augment, lambda *a: slow_augment(augment, *a), augment)
    )
    assert fast.shape == batch.shape and fast.dtype == torch.uint8
    assert torch.equal(fast, slow)
    assert torch.equal(fast, again)
    assert torch.equal(batch, before)


def test_every_crop_flip_and_place_occurs():
    batch = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5).repeat(2000, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    crops = {image.numpy().tobytes() for image in Augment(2, True)(batch, generator)}
    assert len(crops) == 5 * 5 * 2
    flips = Augment(0, True)(batch, generator)[:, 0, 0, 0] == 5
    assert 0.45 < flips.float().mean() < 0.55
    erased = Augment(0, False, 3)(batch, generator) == 0
    assert len({hole.numpy().tobytes() for hole in erased}) == 25
    sizes = erased.sum((1, 2, 3))
    assert set(sizes.tolist()) == {4, 6, 9}, "the corners and edges cut the square"
    assert (Augment(0, False, 20)(batch, generator) == 0).all()


def test_nothing_asked_for_changes_nothing():
    batch = torch.from_numpy(pixels(4, 3, 5, 5))
    assert torch.equal(Augment(0, False, 0)(batch, torch.Generator()), batch)
    with pytest.raises(ValueError, match="must not be negative"):
        Augment(pad=-1)
    with pytest.raises(ValueError, match="must not be negative"):
        Augment(erase=-1)


def test_digits_are_not_flipped():
    assert data.default_augment(load("digits")[0]) == Augment(pad=2, flip=False)
    assert data.default_augment(images([0, 1], 32, 32)) == Augment(pad=4, flip=True)


# Batches


def drawn(whole, *arguments, **options):
    """For each batch, which images it holds, told from normalised pixels, and the labels."""
    for pixels_, labels in batches(whole, *arguments, **options):
        values = (pixels_[:, 0, 0, 0] * whole.std[0] + whole.mean[0]) * 255
        yield values.round().int().tolist(), labels.tolist()


@CASES
@given(count=st.integers(1, 60), size=st.integers(1, 70), seed=SEEDS)
def test_every_image_comes_once_in_nearly_equal_batches(count, size, seed):
    whole = numbered(count)
    for generator in (None, torch.Generator().manual_seed(seed)):
        found = list(drawn(whole, size, generator))
        sizes = [len(labels) for _, labels in found]
        assert max(sizes) <= size and max(sizes) - min(sizes) <= 1
        assert len(sizes) == -(-count // size)
        order = [i for indices, _ in found for i in indices]
        assert sorted(order) == list(range(count))
        assert [label for _, labels in found for label in labels] == [i % 3 for i in order]
        if generator is None:
            assert order == list(range(count))


def test_shuffling_is_reproducible_and_goes_on():
    whole = numbered(50)
    generators = [torch.Generator().manual_seed(s) for s in (1, 1, 2)]
    one, same, other = (list(drawn(whole, 8, g)) for g in generators)
    assert one == same != other
    assert list(drawn(whole, 8, generators[0])) != one, "the next epoch has another order"


@CASES
@given(count=st.integers(8, 60), size=st.integers(8, 40), world=st.integers(1, 4), seed=SEEDS)
def test_processes_share_a_batch_evenly(count, size, world, seed):
    whole = numbered(count)
    augment = Augment(0, False)

    def part(rank, world):
        return list(drawn(whole, size, torch.Generator().manual_seed(seed), augment, rank, world))

    together, shares = part(0, 1), [part(rank, world) for rank in range(world)]
    for step, (indices, _) in enumerate(together):
        each = [share[step][0] for share in shares]
        assert {len(e) for e in each} == {len(indices) // world}
        taken = [i for e in each for i in e]
        assert len(set(taken)) == len(taken)
        assert set(taken) == set(indices[: len(indices) // world * world])
        for share in shares:
            assert share[step][1] == [i % 3 for i in share[step][0]]


def test_batches_are_normalised_and_augmented():
    whole = images([0, 1] * 6)
    (plain, labels), *rest = batches(whole, 12)
    assert not rest and torch.equal(labels, whole.labels)
    assert torch.equal(plain, normalise(whole.images, whole.mean, whole.std))
    augment, seed = Augment(1, True, 2), 5
    (changed, labels), *_ = batches(whole, 12, torch.Generator().manual_seed(seed), augment)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(12, generator=generator)
    expected = slow_augment(augment, whole.images[order], generator)
    assert torch.equal(changed, normalise(expected, whole.mean, whole.std))
    assert torch.equal(labels, whole.labels[order])
    ranks = [
        next(batches(whole, 12, torch.Generator().manual_seed(seed), augment, rank, 2))[0]
        for rank in range(2)
    ]
    assert torch.equal(torch.stack(ranks, 1).flatten(0, 1), changed), "the same as one process"
