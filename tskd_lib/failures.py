"""One sentence for an error that whoever gave the command can do something about."""

from __future__ import annotations

import re
from concurrent.futures import BrokenExecutor

from .checkpoints import CheckpointError
from .files import DataError
from .records import RecordError
from .training import TrainingDiverged

GOES_ON = "; the same command goes on from the last epoch on disk, if there is one"
NO_MEMORY = "there is not enough memory; choose a smaller network, batch or image size"
OURS = CheckpointError, DataError, RecordError, TrainingDiverged, ValueError


def sentence(error: Exception, place: str) -> str | None:
    """What to say instead of a traceback; None for an error of another kind, most likely a bug.

    Args:
        error: what a command has raised.
        place: the file, folder or command that an error of the system is about, where it names no
            file itself.
    """
    if isinstance(error, BrokenExecutor):
        said = "a process of this command was killed, most often for lack of memory"
    elif isinstance(error, OSError):
        said = f"{error.filename or place}: {error.strerror or error}"
    elif isinstance(error, OURS):
        said = str(error)
    elif "by peer" in str(error):  # a connection "closed" or "reset by peer"
        said = "another process of this run has ended" + GOES_ON
    elif isinstance(error, MemoryError) or re.search(
        "out of memory|can't allocate memory|not enough memory", str(error)
    ):
        said = NO_MEMORY
    elif type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        said = f"torch.compile does not work here ({error}); leave out --compile"
    else:
        return None
    return " ".join(said.split())
