"""Real rows for lm-eval's tasks, in the columns of its datasets: a data folder as `--data` takes it, of the first rows of each split."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evalkit.data.sources import FolderSource
from evalkit_tasks.gsm8k import table as gsm8k_table
from evalkit_tasks.mmlu import table as mmlu_table
from evalkit_tasks.multilingual.cells import BY_NAME
from evalkit_tasks.multilingual.suite import ADAPTERS

# lm-eval's task -> its settings
TASKS: dict[str, dict[str, Any]] = {
    "mmlu_anatomy": {"num_fewshot": 5},
    "mmlu_high_school_us_history": {"num_fewshot": 2},
    "gsm8k": {},
    "gsm8k_cot": {},
    "belebele_vie_Latn": {"num_fewshot": 2},
    "xwinograd_fr": {},
    "xcopa_th": {"num_fewshot": 3},
    "paws_ja": {"num_fewshot": 2},
    "mgsm_direct_es": {"num_fewshot": 2},
    "mgsm_native_cot_th": {"num_fewshot": 8},
}
SUBJECTS = ("anatomy", "high_school_us_history")
# dataset -> our cell of the same rows, and its split of each of ours
CELLS = {
    "facebook/belebele/vie_Latn": ("belebele:vi", {"test": "test"}),
    "Muennighoff/xwinograd/fr": ("xwinograd:fr", {"test": "test"}),
    "cambridgeltl/xcopa/th": ("xcopa:th", {"validation": "dev", "test": "test"}),
    # the train split is not at hand: its shots are of dev here
    "google-research-datasets/paws-x/ja": ("pawsx:ja", {"train": "dev", "validation": "dev", "test": "test"}),
    "juletxara/mgsm/es": ("mgsm:es", {"train": "exemplars", "test": "test"}),
    "juletxara/mgsm/th": ("mgsm:th", {"train": "exemplars", "test": "test"}),
}


def write(data: Path, folder: Path, count: int) -> Path:
    """The first `count` rows of every split below `folder`, which is returned. `data`: as EVALKIT_DATA."""
    for dataset, split, rows in _rows(FolderSource(data)):
        path = folder / "lm_eval" / dataset / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:count]))
    return folder


def _rows(source: FolderSource) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    for subject in SUBJECTS:
        for split in ("dev", "test"):
            rows = source.rows(mmlu_table(subject, split))
            yield (
                f"cais/mmlu/{subject}",
                split,
                [{"question": r["question"], "choices": [r[x] for x in "ABCD"], "answer": "ABCD".index(r["answer"])} for r in rows],
            )
    for split in ("train", "test"):
        yield "openai/gsm8k/main", split, source.rows(gsm8k_table(split))
    for dataset, (name, splits) in CELLS.items():
        cell = BY_NAME[name]
        for split, ours in splits.items():
            yield dataset, split, ADAPTERS[cell.set].rows(cell, source, ours)
