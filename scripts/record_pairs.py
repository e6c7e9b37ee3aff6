"""Two KD students that vote, the rival of one student whose exits vote.

    python scripts/record_pairs.py FOLDER

CIFAR-100, 100 images of each class, as in `record_why.py`. One student of each pair has images,
first weights and batches of a fresh seed there; the other has the same images, but weights and
batches of its own. FOLDER gets networks and records, and can be given again after an interruption;
the records and what the votes reach are then copied to tskd_lib/runs. It takes half an hour on two
cores.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from record_study import command, keep, note, origin, variant
from record_why import FRESH, SEEDS

from tskd_lib import metrics, records, study, voting
from tskd_lib.losses import PRESETS

NAME, METHOD, FILE = "cifar100-few-pairs", "kd", "votes.json"
PAIRS = [(seed, seed + len(SEEDS[FRESH])) for seed in SEEDS[FRESH]]


def main(folder: Path) -> None:
    """Train what is not in the folder yet, let each pair vote, and keep records and votes."""
    few = study.load("full")
    problem, jobs, made = variant(few, folder / NAME, name=NAME), [], origin(few)
    for pair in PAIRS:
        alike = replace(problem, train=few.few(pair[0]))
        jobs += [alike.job({METHOD: PRESETS[METHOD]}, seed) for seed in pair]
    study.run_jobs(jobs)
    votes = []
    for pair in PAIRS:
        logits = torch.cat([problem.logits(METHOD, seed) for seed in pair])
        right = metrics.accuracy(voting.vote(logits), problem.test.labels)
        votes.append({"seeds": pair, "accuracy": right.item()})
    keep(problem.folder, problem.test, analysed=(), networks=())
    note({"provenance": made, "votes": votes}, records.COMMITTED / NAME / FILE)


if __name__ == "__main__":
    command(main, sys.argv[1:])
