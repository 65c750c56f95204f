"""A worker with the fault tests' fast model: python fast_worker.py FD"""

import os
import sys
from pathlib import Path

import fast_lm

from evalkit.workers.messages import Hello
from evalkit.workers.process import main

LOG, SECONDS = "EVALKIT_FAULTS_LOG", "EVALKIT_FAULTS_SECONDS"


def open_engine(hello: Hello) -> fast_lm.FastLM:
    fast_lm.SECONDS = float(os.environ[SECONDS])
    return fast_lm.FastLM(Path(os.environ[LOG]), {})


if __name__ == "__main__":
    main(int(sys.argv[1]), open_engine)
