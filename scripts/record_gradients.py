"""Do the exits of our CIFAR-100 students pull the stage that they share apart?

    python scripts/record_gradients.py FOLDER

FOLDER is that of `record_study.py FOLDER full`, whose students it looks at, before and after
training. The cosines between the gradients of their exits go to tskd_lib/runs. It takes some
minutes.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from record_study import command, note, untrained
from torch import Tensor
from torch.nn.functional import normalize

from tskd_lib import checkpoints, data, records, study
from tskd_lib.exits import MultiExitNet
from tskd_lib.losses import PRESETS, Objective

METHODS, SEEDS, SHOTS = ("multi_exit", "byot", "tskd"), range(3), 10
FILE = "gradients.json"


def pulls(
    network: MultiExitNet, objective: Objective, images: data.Images, teacher: MultiExitNet
) -> Tensor:
    """The gradient of each exit's own terms by the weights of stage 1, `[K, weights]`."""
    batch = data.normalise(images.images, images.mean, images.std)
    with torch.no_grad():
        teacher_logits = teacher.eval()(batch).logits[-1]
    logits, features = network.train()(batch)
    shared, found = list(network.backbone.stages[0].parameters()), []

    def total(exits: list[int]) -> Tensor:
        terms = objective(logits[exits], features[exits], images.labels, teacher_logits)
        return terms["total"]

    deepest = total([-1])
    for loss in [*(total([k, -1]) - deepest for k in range(len(logits) - 1)), deepest]:
        parts = torch.autograd.grad(loss, shared, retain_graph=True)
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


def main(folder: Path) -> None:
    """Measure every student of the folder, and write one file."""
    few = study.load("full")
    few = replace(few, folder=folder / few.name)
    teacher, found = few.teacher(), []
    origin = records.provenance(torch.device("cpu"), 1, "fp32")
    for method in METHODS:
        for seed in SEEDS:
            learned = few.few(seed)
            network, about = checkpoints.load_network(few.network_path(method, seed))
            new = untrained(few, seed=seed)
            row = {"method": method, "seed": seed, "weights sha256": about["sha256"]}
            for moment, one in (("before", new), ("after", network)):
                some = data.per_class(learned, SHOTS, seed)
                pull = normalize(pulls(one, PRESETS[method], some, teacher))
                row[moment] = [
                    [round(c, 4) for c in cosines] for cosines in (pull @ pull.T).tolist()
                ]
            found.append(row)
    note({"provenance": origin, "cosines": found}, records.COMMITTED / few.name / FILE)


if __name__ == "__main__":
    command(main, sys.argv[1:])
