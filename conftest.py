"""For every test, notebooks included: the small images, on the CPU."""

import os
import tempfile

os.environ |= {"ACCELERATE_USE_CPU": "true", "TSKD_PROFILE": "quick"}
tempfile.gettempdir()  # pytest keeps the usual one
SCRATCH = tempfile.TemporaryDirectory(prefix="tskd-tests-", ignore_cleanup_errors=True)
os.environ["TMPDIR"] = SCRATCH.name  # nbval kills its kernels, which then leave their files
