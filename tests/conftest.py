"""What several tests need: a small piece of the digits, and tiny students."""

import functools
import os
from pathlib import Path

import pytest
import torch

from tskd_lib import data
from tskd_lib.exits import build_student

torch.set_num_threads(1)  # tiny tensors: two threads that wait for each other are slower


@pytest.fixture(scope="session")
def real_images():
    """A function that loads a data set that is on this machine, or skips the test.

    It is looked for in TSKD_DATA_ROOT, and in the folder `data` of the repository.
    """
    root = os.environ.get("TSKD_DATA_ROOT", Path(__file__).parents[1] / "data")

    @functools.cache
    def load(name):
        try:
            return data.load(name, root, download=False)
        except data.DataError as error:
            pytest.skip(str(error))

    return load


@pytest.fixture(scope="session")
def digits():
    """(train, test): 20 and 10 images of every digit, 16 x 16."""
    train, test = data.load("digits")
    return data.per_class(train, 20, 0), data.per_class(test, 10, 0)


@pytest.fixture
def tiny():
    """A function that makes a small network for the digits."""

    def make(exits="all", seed=0, name="resnet8"):
        return build_student(
            name,
            10,
            (1, 16, 16),
            width=0.5,
            exits=exits,
            strength="separable",
            seed=seed,
        )

    return make


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
