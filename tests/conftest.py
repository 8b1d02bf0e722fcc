"""Settings that must hold before a test imports torch or Triton."""

import os
import tempfile
from pathlib import Path

WORKER = os.environ.get("PYTEST_XDIST_WORKER")

if WORKER:  # processes that compile the same kernel at once would share one cache folder
    caches = Path(tempfile.gettempdir()) / "fluxfast-tests" / WORKER
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(caches / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(caches / "triton"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers already use every core

import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads this when it is imported
