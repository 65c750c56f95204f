"""The sandbox needs no root: where the tests run as root (CI, a container), its own tests run once more as a user without any right."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
USER = "12345"  # nobody's
# Python, its packages and this checkout may lie where only root can look: the user finds them below /mnt, in a mount namespace of its own
SANDBOX, HOSTILE = "tests/integration/test_sandbox.py", "tests/faults/test_hostile.py"
PROGRAMS = sorted((REPO / "tests" / "faults" / "hostile").glob("*.py"))
TESTS = {
    "some programs": (SANDBOX, *(f"{HOSTILE}::test_hostile[{path.stem}]" for path in PROGRAMS[::8])),
    "every program": (HOSTILE,),
}
SCRIPT = f"""
set -e
mount --make-rprivate /
mount -t tmpfs none /mnt
mkdir /mnt/python /mnt/packages /mnt/repo
mkdir -m 1777 /mnt/home
mount --bind "$1" /mnt/python
mount --bind "$2" /mnt/packages
mount --bind "$3" /mnt/repo
cd /mnt/repo
exec setpriv --reuid {USER} --regid {USER} --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \\
    env -i HOME=/mnt/home TMPDIR=/mnt/home PATH=/usr/bin:/bin LD_LIBRARY_PATH=/mnt/python/lib PYTHONPATH=/mnt/packages \\
    PYTHONDONTWRITEBYTECODE=1 "/mnt/python/bin/$4" -m pytest -q -p no:cacheprovider "${{@:5}}"
"""


@pytest.mark.parametrize("which", ["some programs", pytest.param("every program", marks=pytest.mark.slow)])
def test_the_sandbox_holds_for_a_user_without_rights(which: str) -> None:
    if os.geteuid() != 0:
        pytest.skip(f"this is an unprivileged user already: {SANDBOX} and {HOSTILE} are the test")
    if missing := [tool for tool in ("unshare", "setpriv", "mount") if not shutil.which(tool)]:
        pytest.skip(f"{missing[0]} is not installed (util-linux)")
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    given = [sys.base_prefix, sysconfig.get_path("purelib"), str(REPO), python, *TESTS[which]]
    done = subprocess.run(["unshare", "--mount", "bash", "-c", SCRIPT, "bash", *given], capture_output=True, text=True, timeout=500)
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"this root may not mount: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED") and "EVALKIT_DATA" not in line]
    assert not skipped, "a machine with a sandbox for root has one for everybody"
