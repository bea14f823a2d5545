"""The command: `python -m tests.fuzz --seconds 3600 --seed 0 --log fuzz.log`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from tests.fuzz.command import main

if __name__ == "__main__":
    raise SystemExit(main())
