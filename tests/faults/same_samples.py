"""The same samples, whoever computes them: python tests/faults/same_samples.py --model smollm2-135m --data DIR

MMLU, GSM8K and sampled HumanEval by one process, 2 and 3 workers, 1 and 2 Ray actors (where Ray is installed), and 2 and 5 shards that are
merged. Every byte of samples/ must be one process's. Prints a table, then one JSON line; exit code 1 where anything differs.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASKS = {
    "mmlu": ["--tasks", "mmlu", "--limit", "400"],
    "gsm8k": ["--tasks", "gsm8k", "--limit", "40"],
    "sampled": ["--tasks", "humaneval", "--limit", "8", "--temperature", "0.8", "--repeats", "2"],
}
TRANSPORTS = {
    "1 process": [],
    "2 workers": ["--workers", "2"],
    "3 workers": ["--workers", "3"],
    "1 Ray actor": ["--ray", "local", "--workers", "1"],
    "2 Ray actors": ["--ray", "local", "--workers", "2"],
}
SHARDS = (2, 5)


def evalkit(*arguments: str) -> None:
    found = subprocess.run([sys.executable, "-m", "evalkit", *arguments], capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit code {found.returncode}: {found.stderr[-1000:]}")


def digest(folder: Path) -> str:
    files = sorted((folder / "samples").iterdir())
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


def by_shards(number: int, arguments: list[str], out: Path) -> Path:
    folders = []
    for i in range(1, number + 1):
        evalkit("run", *arguments, "--out", str(out), "--name", f"part{i}of{number}", "--shard", f"{i}/{number}")
        folders.append(str(out / f"part{i}of{number}"))
    evalkit("merge", *folders, "--out", str(out), "--name", f"{number}shards")
    return out / f"{number}shards"


def measured(task: str, transport: str, common: list[str], out: Path) -> dict[str, object]:
    arguments = [*TASKS[task], *common, "--quiet"]
    started = time.monotonic()
    if transport in TRANSPORTS:
        name = transport.replace(" ", "-")
        evalkit("run", *arguments, "--out", str(out), "--name", name, *TRANSPORTS[transport])
        folder = out / name
    else:
        folder = by_shards(int(transport.split()[0]), arguments, out)
    elapsed = time.monotonic() - started
    [record] = json.loads((folder / "run.json").read_text())["tasks"].values()
    return {
        "task": task,
        "by": transport,
        "samples": digest(folder),
        "seconds": round(elapsed, 1),
        "computed": record["tokens"]["computed"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data", default=os.environ.get("EVALKIT_DATA", "sample"))
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parsed = parser.parse_args()
    transports = [each for each in TRANSPORTS if "Ray" not in each or importlib.util.find_spec("ray")]
    rows = []
    for task in parsed.tasks.split(","):
        with tempfile.TemporaryDirectory(prefix="evalkit-same-") as scratch:
            for transport in (*transports, *(f"{number} shards" for number in SHARDS)):
                row = measured(task, transport, ["--model", parsed.model, "--data", parsed.data, "--dtype", parsed.dtype], Path(scratch))
                same = row["samples"] == next((each["samples"] for each in rows if each["task"] == task), row["samples"])
                rows.append(row | {"same": same})
                said = "same" if same else "OTHER SAMPLES"
                print(f"{task:8} {transport:13} {row['seconds']:7} s {row['computed']:9,} tokens  {said}", flush=True)
    print(json.dumps(rows))
    return 0 if all(row["same"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
