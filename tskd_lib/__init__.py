"""TSKD: teacher-student collaborative knowledge distillation with multi-exit students.

Each module uses only those before it in `__all__`, and is loaded when it is first used.
"""

import importlib

__version__ = "0.1.0"
__all__ = [
    "files",
    "data",
    "networks",
    "exits",
    "losses",
    "voting",
    "anytime",
    "metrics",
    "checkpoints",
    "recipes",
    "training",
    "records",
    "report",
    "analysis",
    "experiments",
    "progress",
    "study",
    "theme",
    "plots",
    "pictures",
    "widgets",
    "explorer",
    "timing",
    "bench",
    "arguments",
    "failures",
]


def __getattr__(name):
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
