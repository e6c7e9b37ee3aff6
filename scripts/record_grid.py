"""Run the digits with several numbers of images and temperatures, for the experiment explorer.

    python scripts/record_grid.py FOLDER

Every method on 5, 10 and 20 images a class with ten seeds, and those with soft targets at other
temperatures with three; then the ablation of the terms on the fewest images. FOLDER gets networks
and records, and can be given again after an interruption; the records, and the analyses of the
explorer's, are then copied to tskd_lib/runs.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from record_study import ablation

from tskd_lib import analysis, records, study
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

    def part(name: str, images: int, place: Path) -> study.Study:
        shutil.copytree(problem.teacher_path().parent, place / "teacher", dirs_exist_ok=True)
        return replace(problem, name=name, shots=images, folder=place)

    for images in IMAGES:
        one = part(NAME, images, folder / NAME / f"images-{images}")
        one.run(arms(), FEWER_SEEDS)
        usual = {name: arm for name, arm in arms().items() if arm.temperature == 4}
        one.run(usual, SEEDS)
    part(TERMS, min(IMAGES), folder / TERMS).run(ablation(), SEEDS)
    for path in sorted(folder.glob("*/**/seed-*/*.record.json")):
        target = records.COMMITTED / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        if path.is_relative_to(folder / NAME):
            checkpoint = path.with_name(path.name.replace(".record.json", ".json"))
            analysis.write(analysis.analyse(checkpoint, problem.test, samples), target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Name one folder for the networks and records of all runs.")
    try:
        main(Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command goes on from what is in the folder.")
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
