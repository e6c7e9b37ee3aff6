"""Checkpoints: tensors as safetensors beside a small JSON file, written atomically.

`NAME.json` names the file of weights and holds its SHA-256. The weights are complete on disk
before the JSON file is renamed into place, so whenever the writer is killed, the old checkpoint or
the new one is there, never a mixture.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from .data import Images
from .exits import MultiExitNet, build_student


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged or of another kind; the message says which."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        OSError: where that fails, as on a full disk; it names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        patiently(os.replace, partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        partial.unlink(missing_ok=True)


def patiently(change: Callable, *paths: Path) -> None:
    """Change a file; where Windows refuses because somebody is reading it, a little later."""
    for _ in range(20 if os.name == "nt" else 0):
        try:
            return change(*paths)
        except PermissionError:
            time.sleep(0.1)
    change(*paths)


def serialise(tensors: dict[str, Tensor]) -> bytes:
    """Tensors as the bytes of a safetensors file."""
    from safetensors.torch import save

    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def digest(tensors: dict[str, Tensor]) -> str:
    """The SHA-256 of the safetensors file that `write` would make of these tensors."""
    return hashlib.sha256(serialise(tensors)).hexdigest()


def write(path: Path, tensors: dict[str, Tensor], about: dict) -> str:
    """Write a checkpoint as `path` (a .json file) and its weights beside it.

    Args:
        path: the JSON file; an earlier checkpoint of this name is replaced.
        tensors: by name.
        about: what else to keep, as JSON.

    Returns:
        The weights' SHA-256.

    Raises:
        OSError: where that fails, as on a full disk; an earlier checkpoint is then as it was.
    """
    content = serialise(tensors)
    sha256 = hashlib.sha256(content).hexdigest()
    weights = path.with_name(f"{path.stem}-{sha256[:8]}.safetensors")
    about = json.dumps({"weights": weights.name, "sha256": sha256, **about}, indent=1) + "\n"
    earlier = _weights_of(path)
    write_atomically(weights, content)
    try:
        write_atomically(path, about.encode())
    except OSError:
        if weights not in earlier:
            weights.unlink()
        raise
    for old in earlier:
        if old != weights:
            old.unlink()
    return sha256


def remove(path: Path) -> None:
    """Delete a checkpoint with its weights, and what a kill left of it half-written."""
    patiently(path.unlink)
    name = glob.escape(path.stem)
    for file in [*_weights_of(path), *path.parent.glob(f".{name}[.-]*.partial")]:
        file.unlink()


def _weights_of(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{glob.escape(path.stem)}-{'[0-9a-f]' * 8}.safetensors"))


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the rest of a checkpoint, verified against its SHA-256.

    Raises:
        CheckpointError: where a file is missing, unreadable or not what was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = Path(path)
    try:
        about = json.loads(path.read_text("utf-8"))
        content = (path.parent / about["weights"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            raise CheckpointError(f"{path.parent / about['weights']} is damaged: wrong SHA-256")
        return load(content), about
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint file {error.filename}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, RecursionError, SafetensorError):
        raise CheckpointError(f"{path} is not a checkpoint of tskd, or is damaged") from None


def save_network(path: Path, network: MultiExitNet, data: Images) -> str:
    """Write a network with what it needs to classify new images; returns the SHA-256.

    Args:
        path: the JSON file.
        network: from `exits.build_student`.
        data: where class names and normalisation come from.
    """
    about = {
        "kind": "network",
        "network": network.config,
        "dataset": data.name,
        "classes": data.classes,
        "mean": data.mean,
        "std": data.std,
    }
    return write(path, network.state_dict(), about)


def load_network(path: Path) -> tuple[MultiExitNet, dict]:
    """The network of a checkpoint, in evaluation mode, and what was kept with it.

    Raises:
        CheckpointError: where the file is missing, damaged or not a network's.
    """
    tensors, about = read(path)
    if about.get("kind") != "network":
        raise CheckpointError(f"{path} is not a network's checkpoint")
    try:
        network = build_student(**about["network"])
        network.load_state_dict(tensors)
        sizes = [len(about[key]) for key in ("classes", "mean", "std")]
        if sizes != [network.config["classes"], *[network.config["input_shape"][0]] * 2]:
            raise ValueError(f"classes, mean and std have {sizes} entries")
        if not all(isinstance(name, str) for name in (about["dataset"], *about["classes"])):
            raise TypeError("the names of the data set and its classes are not all text")
        statistics = (*about["mean"], *about["std"])
        if not all(isinstance(value, float) and math.isfinite(value) for value in statistics):
            raise TypeError("mean and std are not all finite numbers")
        if min(about["std"]) <= 0:
            raise ValueError("std is not positive")
    except Exception as error:  # a damaged description raises almost anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{path}: its weights and its description do not fit ({reason})"
        ) from None
    return network.eval(), about


def as_trained(images: Images, about: dict) -> Images:
    """The images, normalised as those that a network was trained on.

    Args:
        images: any.
        about: of the network, from `load_network`.

    Raises:
        DataError: for images with another number of channels.
    """
    return replace(images, mean=tuple(about["mean"]), std=tuple(about["std"]))
