"""lm-eval's command on its own model class for transformers, and the same command on evalkit's engine, in turn: MMLU with five shots.

    python tests/integration/clients/lm_eval_speed.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --data DIR

Needs lm-eval, transformers with GGUF support, and MMLU. Both compute in float32, on the same weights and all cores. Prints seconds and
scores, and the ratio of the medians as a JSON line; exit code 1 where their scores differ.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evalkit.data.sources import FolderSource
from evalkit_tasks.mmlu import table as mmlu_table

SUBJECTS = ("abstract_algebra", "college_biology", "global_facts", "marketing")


def write_tasks(data: Path, folder: Path) -> None:
    """MMLU as lm-eval's own configuration words it, on local files."""
    source = FolderSource(data)
    for subject in SUBJECTS:
        files = {}
        for split in ("dev", "test"):
            rows = [
                {"question": row["question"], "choices": [row[x] for x in "ABCD"], "answer": "ABCD".index(row["answer"])}
                for row in source.rows(mmlu_table(subject, split))
            ]
            files[split] = str(folder / f"{subject}.{split}.jsonl")
            Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = "".join(f"\n{letter}. {{{{choices[{i}]}}}}" for i, letter in enumerate("ABCD"))
        task = {
            "task": f"local_mmlu_{subject}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "test_split": "test",
            "fewshot_split": "dev",
            "fewshot_config": {"sampler": "first_n"},
            "output_type": "multiple_choice",
            "description": f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n",
            "doc_to_text": "{{question.strip()}}" + options + "\nAnswer:",
            "doc_to_choice": ["A", "B", "C", "D"],
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
        (folder / f"{subject}.yaml").write_text(json.dumps(task))  # JSON is YAML


def evaluated(program: list[str], model: list[str], tasks: Path, limit: int, out: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of the whole command, and the scores of its results file."""
    names = ",".join(f"local_mmlu_{subject}" for subject in SUBJECTS)
    settings = ["--tasks", names, "--num_fewshot", "5", "--include_path", str(tasks), "--limit", str(limit), "--output_path", str(out)]
    started = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-m", *program, *model, *settings], capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    seconds = time.monotonic() - started
    if found.returncode:
        raise SystemExit(found.stderr[-2000:])
    results = json.loads(max(out.rglob("results_*.json")).read_text())["results"]
    return seconds, {name: scores["acc,none"] for name, scores in sorted(results.items())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="as EVALKIT_DATA")
    parser.add_argument("--limit", type=int, default=100, help="documents of each of four subjects (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--batch-size", default="8", help="of lm-eval's own class (default: %(default)s)")
    parsed = parser.parse_args()
    theirs = [
        "--model",
        "hf",
        "--model_args",
        f"pretrained={parsed.gguf.parent},gguf_file={parsed.gguf.name},dtype=float32",
        "--batch_size",
        parsed.batch_size,
    ]
    ours = ["--model", "evalkit", "--model_args", f"pretrained={parsed.gguf}"]
    seconds: dict[str, list[float]] = {"lm-eval": [], "evalkit": []}
    same = True
    with tempfile.TemporaryDirectory(prefix="evalkit-lm-eval-") as scratch:
        tasks = Path(scratch) / "tasks"
        tasks.mkdir()
        write_tasks(parsed.data, tasks)
        for i in range(parsed.repeats):
            scores = {}
            for who, program, model in (("evalkit", "evalkit.lm_eval", ours), ("lm-eval", "lm_eval", theirs)):
                took, scores[who] = evaluated([program], model, tasks, parsed.limit, Path(scratch) / f"{who}{i}")
                seconds[who].append(took)
                print(f"{who:8} {took:7.1f} s  {scores[who]}", flush=True)
            same &= scores["evalkit"] == scores["lm-eval"]
    medians = {who: statistics.median(each) for who, each in seconds.items()}
    print(json.dumps({"seconds": seconds, "ratio": round(medians["lm-eval"] / medians["evalkit"], 2), "same_scores": same}))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
