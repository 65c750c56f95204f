"""`make test-asan`: the tests of the CPU kernels on libraries that AddressSanitizer and UndefinedBehaviorSanitizer watch.

Every variant that this processor can run. What is read or written outside a tensor ends the process with the sanitizer's report.
(Packed weights lie in memory that is mapped for them, not allocated: there only reads beyond the mapping are seen.)
"""

import os
import subprocess
import sys
from pathlib import Path

from moe_lm.backends.cpu import build, library

NAMES = ("gemm", "quantized", "attention", "norm_rope", "fused", "moe", "softmax", "k_quants", "boundary", "variants")
TESTS = [f"tests/kernels/test_cpu_{name}.py" for name in NAMES]


def main() -> int:
    names = list(build.build(sanitize=True))
    runtime = subprocess.run([build.compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    for name in names:
        if not library.FEATURES[name.removesuffix(build.SANITIZED)] <= library.processor_features():
            print(f"{name}: not run, this processor cannot", flush=True)
            continue
        print(f"{name}:", flush=True)
        watched = {library.VARIANT_VARIABLE: name, "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}
        command = [sys.executable, "-m", "pytest", "-q", *TESTS]
        if code := subprocess.run(command, cwd=Path(__file__).parents[2], env=os.environ | watched, check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
