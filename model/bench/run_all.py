"""Every benchmark after another, each in a process of its own: `python model/bench/run_all.py | tee bench.txt`.

`--tune` searches the tiles first (about an hour); other options go to each benchmark (see `--help` of one).
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = ("routing", "grouped_gemm", "combine", "experts_triton", "experts_int4", "paged_attention", "decode_step")


def main() -> int:
    options = [o for o in sys.argv[1:] if o != "--tune"]
    names = ("tune", *BENCHMARKS) if "--tune" in sys.argv else BENCHMARKS
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, str(HERE / f"{name}.py"), *options], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
