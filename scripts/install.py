"""Make .venv and install the locked packages and the library into it.

    python scripts/install.py

Standard library only. An old Python must be able to read this file, to say that it is too old.
"""

from __future__ import print_function

import os
import platform
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, ".installed")  # made last: the Makefile reads it as "all is there"

OLDEST, NEWEST = (3, 10), (3, 13)
GB = 1e9
# What an installation takes; on Linux the CUDA libraries, which PyTorch needs, are most of it.
INSTALLED, DOWNLOADED = (6.8, 3.3) if sys.platform.startswith("linux") else (2.0, 0.7)


class Problem(Exception):
    """What keeps the installation from going on, as one sentence for the reader."""


def check_python(version, executable):
    """Raise Problem unless `version` is one that every locked package supports."""
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        raise Problem(
            "Python 3.%d to 3.%d is needed, but %s is Python %s: name another one, "
            "for example with 'make test PYTHON=python3.12' "
            "(on Windows: py -3.12 scripts/install.py)."
            % (OLDEST[1], NEWEST[1], executable, ".".join(str(part) for part in version[:3]))
        )


def check_platform(system, machine, bits):
    """Raise Problem where PyTorch publishes nothing that could be installed."""
    if bits < 64:
        raise Problem("A 64-bit Python is needed, but this one has 32 bits: install a 64-bit one.")
    if (system, machine) == ("Darwin", "x86_64"):
        raise Problem(
            "PyTorch is no longer published for Intel Macs (nor for an Intel Python on an Apple "
            "chip): use a native Python on an Apple chip, or open the notebooks on Colab."
        )


def check_venv_modules():
    """Raise Problem where the distribution has split off what makes an environment."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise Problem(
            "This Python cannot make virtual environments (%s): on Debian and Ubuntu, "
            "'apt install python%d.%d-venv' adds what is missing."
            % ((error,) + tuple(sys.version_info[:2]))
        )


def device(folder):
    """Return a number that folders on the same disk share."""
    return os.stat(folder).st_dev


def check_space():
    """Raise Problem unless the environment, the downloads and pip's cache of them fit."""
    needs = {}
    for folder, size in (
        (ROOT, INSTALLED),
        (tempfile.gettempdir(), DOWNLOADED),
        (os.path.expanduser("~"), DOWNLOADED),
    ):
        if not os.path.isdir(folder):  # a user without a home
            continue
        disk = device(folder)
        needs[disk] = (folder, needs.get(disk, (folder, 0))[1] + size)
    for folder, size in needs.values():
        free = shutil.disk_usage(folder).free / GB
        if free < size:
            raise Problem(
                "The installation needs %.1f GB of disk space at %s, but only %.1f GB are free: "
                "make room there and try again." % (size, folder, free)
            )


def run(sentence, *command):
    """Run a command, and raise Problem with `sentence` if it fails."""
    try:
        subprocess.check_call(command)
    except OSError as error:
        sys.stderr.write("%s\n" % error)
        raise Problem(sentence)
    except subprocess.CalledProcessError:
        raise Problem(sentence)


def install():
    """Bring .venv up to date; an environment without its stamp is made anew."""
    python = os.path.join(
        VENV, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python"))
    )
    if os.path.exists(STAMP):
        os.remove(STAMP)
    else:
        check_space()
        base = getattr(sys, "_base_executable", sys.executable)  # not .venv's own, if it is active
        failed = "The virtual environment could not be made in %s: the reason stands above." % VENV
        run(failed, base, "-m", "venv", "--clear", VENV)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install")
    failed = (
        "The installation stopped: the reason stands above. Run the same command again when it is "
        "mended (pip keeps what it has downloaded)."
    )
    lock = os.path.join(ROOT, "requirements.lock")
    run(failed, *(pip + ("--require-hashes", "-r", lock)))
    run(failed, *(pip + ("--no-deps", "--no-build-isolation", "-e", ROOT)))
    open(STAMP, "w").close()


def main():
    """Check, install, and tell a failure in one sentence."""
    try:
        check_python(sys.version_info, sys.executable)
        check_platform(platform.system(), platform.machine(), 64 if sys.maxsize > 2**32 else 32)
        check_venv_modules()
        install()
    except Problem as problem:
        print(problem, file=sys.stderr)
        return 1
    print("Everything is installed in " + VENV)
    return 0


if __name__ == "__main__":
    sys.exit(main())
