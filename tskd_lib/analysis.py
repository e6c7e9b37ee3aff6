"""What a trained network says of the test images, small enough to keep beside its record.

A record has the accuracy of a run. Its analysis has what a reader wants to look into next: early
exit at a few thresholds, confidence against accuracy, how the exits differ, and the answers to a
few images. It is made from the checkpoint, whose digest it names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from . import anytime, checkpoints, metrics, recipes, records, voting
from .data import Images
from .training import predict

THRESHOLDS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, anytime.NEVER)
RULE = "probability"
SUFFIX = ".analysis.json"


def analyse(
    checkpoint: Path,
    test: Images,
    samples: Sequence[int] = range(12),
    precision: str = "auto",
    validation: Images | None = None,
) -> dict:
    """Early exit, calibration, diversity and sample answers of a trained network.

    Args:
        checkpoint: the `.json` file of the network.
        test: the images; normalised as in the network's training, whatever they say.
        samples: the places of those whose answers are kept one by one.
        precision: as in `Recipe`.
        validation: images that were not trained on, to fit weights and temperatures; or None.

    Returns:
        "weights sha256" and "test sha256"; "calibration", for each exit and the vote the bins of
        `metrics.calibration`; "samples", for each exit and the vote the "class" and "confidence"
        of every sample, after their "place". Where there are several exits also "early exit", the
        columns of `anytime.curve` at `THRESHOLDS`, and "diversity", the matrices of
        `voting.diversity`; and with validation images "fitted vote", the weights of
        `voting.fit_weights` and what the vote reaches on the test images with them, and
        "calibrated", the temperature of each exit by `metrics.fit_temperature`, and with it the
        NLL and the mean `voting.ambiguity` of the exits on the test images. Exits and vote are
        named as in `records.answers`.

    Raises:
        checkpoints.CheckpointError: for a checkpoint that is missing or damaged.
        files.DataError: for images with another number of channels.
        ValueError: for a precision that is unknown or not for this device.
    """
    network, about = checkpoints.load_network(checkpoint)
    network.to(recipes.default_device())

    def answer(images: Images) -> Tensor:
        return predict(network, checkpoints.as_trained(images, about), precision)

    samples = [place for place in samples if place < len(test)]
    logits, labels = answer(test), test.labels
    names = [f"exit {k}" for k in range(1, len(logits))] + ["deepest"]
    answers = dict(zip(names, voting.probabilities(logits)))
    found = {"weights sha256": about["sha256"], "test sha256": test.checksum()}
    if len(names) > 1:
        answers[f"vote {RULE}"] = voting.vote(logits, RULE)
        curve = anytime.curve(logits, labels, network.flops(), thresholds=THRESHOLDS)
        found["early exit"] = _plain(curve.to_dict("list"))
        found["diversity"] = _plain(voting.diversity(logits, labels)._asdict())
        if validation is not None:
            known = answer(validation)
            weights = voting.fit_weights(known, validation.labels)
            fitted = voting.vote(logits, RULE, weights)
            reached = float(metrics.accuracy(fitted, labels))
            found["fitted vote"] = _plain({"weights": weights, "accuracy": reached})
            warmth = [metrics.fit_temperature(z, validation.labels) for z in known]
            sure = torch.stack([z / t for z, t in zip(logits, warmth)])
            found["calibrated"] = _plain(
                {
                    "temperature": warmth,
                    "nll": metrics.nll(voting.probabilities(sure), labels),
                    "ambiguity": voting.ambiguity(sure).mean().item(),
                }
            )
    bins = {name: metrics.calibration(p, labels)._asdict() for name, p in answers.items()}
    top = {name: p[samples].max(-1) for name, p in answers.items()}
    found["calibration"] = {name: _plain(values) for name, values in bins.items()}
    found["samples"] = {"place": samples} | {
        name: _plain({"class": best.indices, "confidence": best.values})
        for name, best in top.items()
    }
    return found


def write(found: dict, record: Path) -> None:
    """Keep an analysis beside the record of the same run."""
    content = json.dumps(found, separators=(",", ":"), allow_nan=False) + "\n"
    path = str(record).removesuffix(records.SUFFIX) + SUFFIX
    checkpoints.write_atomically(Path(path), content.encode())


def read_all(folder: Path) -> dict[str, dict]:
    """Every analysis below a folder, by the digest of the weights that it is of.

    Raises:
        records.RecordError: where there is none, or one or a folder cannot be read.
    """
    found = {}
    for path in records.find(folder, SUFFIX, "analyses"):
        one = records.read_json(path)
        try:
            found[one["weights sha256"]] = one
        except (KeyError, TypeError):
            raise records.RecordError(f"{path} is not an analysis") from None
    return found


def _plain(values: dict) -> dict:
    """Tensors and lists as lists of rounded numbers; None for those that are not finite."""

    def plain(value):
        if isinstance(value, (list, Tensor)):
            return [plain(v) for v in (value.tolist() if torch.is_tensor(value) else value)]
        if isinstance(value, float):
            return round(value, 5) if abs(value) < float("inf") else None
        return value

    return {key: plain(value) for key, value in values.items()}
