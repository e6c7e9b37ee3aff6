"""Run the digits with several numbers of images and temperatures, for the experiment explorer.

    python scripts/record_grid.py FOLDER

Every method on 5, 10 and 20 images a class with ten seeds, and those with soft targets at other
temperatures with three; then the ablation of the terms on the fewest images. FOLDER gets networks
and records, and can be given again after an interruption; the records, and the analyses of the
explorer's, are then copied to tskd_lib/runs.
"""

import sys
from dataclasses import replace
from pathlib import Path

from record_study import ablation, command, keep, variant

from tskd_lib import study
from tskd_lib.losses import PRESETS, Objective
from tskd_lib.training import predict

NAME, IMAGES, TEMPERATURES = "digits-grid", (5, 10, 20), (1, 2, 4, 8)
TERMS = "digits-five"
SEEDS, FEWER_SEEDS = range(10), range(3)


def arms() -> dict[str, Objective]:
    """The presets, those with soft targets at every temperature."""
    arms = {}
    for method, objective in PRESETS.items():
        soft = objective.teacher or objective.self_
        for temperature in TEMPERATURES if soft else [objective.temperature]:
            name = f"{method} T={temperature}" if soft else method
            arms[name] = replace(objective, temperature=float(temperature))
    return arms


def main(folder: Path) -> None:
    """Train what is not in the folder yet, analyse it, and copy records and analyses."""
    problem = study.load("quick")
    sure = predict(problem.teacher(), problem.test)[-1].softmax(-1).amax(-1)
    samples = [*sure.argsort()[:8].tolist(), *range(4)]  # hard for the teacher, and as they come
    for images in IMAGES:
        part = variant(problem, folder / NAME / f"images-{images}", name=NAME, shots=images)
        part.run(arms(), FEWER_SEEDS)
        usual = {name: arm for name, arm in arms().items() if arm.temperature == 4}
        part.run(usual, SEEDS)
    fewest = variant(problem, folder / TERMS, name=TERMS, shots=min(IMAGES))
    fewest.run(ablation(), SEEDS)
    keep(fewest.folder, problem.test)
    keep(folder / NAME, problem.test, analysed=arms(), networks=(), samples=samples)


if __name__ == "__main__":
    command(main, sys.argv[1:])
