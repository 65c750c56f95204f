"""Kill -9 and failing disks, many times over: python tests/faults/kill_many.py --kills 200 --faults 50

The runs are real (command line, tasks, data, sandbox, journal, files); only the model is a fast one that counts its answers, so that
an attempt takes a second. Faults are the system's own: calls that a preloaded shim (shim.c) lets fail with ENOSPC or EIO, and, where
mounting is allowed, file systems that are too small. Exit code 0 where nothing was lost, doubled or wrong.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
INSIDE = "EVALKIT_FAULTS_INSIDE"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--data", default="sample", help="sample, or a folder of benchmark data")
    parser.add_argument("--seed", type=int, help="of the times and places (default: another one each time)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="evalkit-faults-") as scratch:
        if INSIDE not in os.environ:
            return _inside(Path(scratch))
        can_mount = os.environ.pop(INSIDE) == "mount"
        os.environ.pop("LD_PRELOAD", None)  # it is here; the sandbox's and git's processes need none
        from trial import Trial  # with the model package and the tasks: only here

        return Trial(Path(scratch), arguments.data, arguments.seed, can_mount).run(arguments.kills, arguments.faults)


def _inside(scratch: Path) -> int:
    """This script again, with the shim preloaded and in a mount namespace of its own, where these can be had."""
    environment = os.environ | {INSIDE: "shim", "OMP_NUM_THREADS": "1"}
    if shutil.which("cc"):
        shim = scratch / "shim.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(shim), str(HERE / "shim.c"), "-ldl"], check=True)
        environment["LD_PRELOAD"] = str(shim)
    enter = ["unshare", "--mount", "--propagation", "private", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    probe = [*enter, "mount", "-t", "tmpfs", "none", str(scratch)]
    can_mount = shutil.which("unshare") and not subprocess.run(probe, capture_output=True).returncode
    environment[INSIDE] = "mount" if can_mount else "no mount"
    command = [*(enter if can_mount else []), sys.executable, __file__, *sys.argv[1:]]
    return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
