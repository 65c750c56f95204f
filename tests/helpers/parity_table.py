"""Measures moe_lm against transformers for every family, and writes the table of docs/models.md: `python tests/helpers/parity_table.py`.

Random models are those of `transformers_models.CONFIGS`, the first of each family, from a folder that transformers has saved, and from a
GGUF file of the same weights. Real ones are GGUF files, which transformers reads by its own reader: they must be there.
"""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from gguf_files import ARCHITECTURES, gguf_tensors, write
from parity import parity
from tiny_models import on, tokens
from transformers_models import CONFIGS, save_random

from moe_lm.checkpoint.read import load

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- parity table -->", "<!-- end of the parity table -->"
COLUMNS = ("family", "source", "weights", "largest logit difference", "same greedy tokens")
LIMIT = 1e-5  # of the difference, in units of the largest logit
SEQUENCES = [tokens(n, seed=n) for n in (3, 130, 300)]  # shorter than, about as long as, and longer than a page and every window
REAL = {
    "SmolLM2-135M-Instruct, Q4_1": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    "Gemma-3-270M, Q4_K_M": "gemma-3-270m-q4_k_m.gguf",
}
PROMPTS = ("The lighthouse keeper opened the logbook and wrote", "def fibonacci(n):\n    if n < 2:\n        return n\n")
Row = tuple[str, str, str, str, str]


def random_rows() -> list[Row]:
    """For each family a folder, and a GGUF file where llama.cpp has the family: the first whose configuration such a file can hold."""
    rows: dict[tuple[str, str], Row] = {}
    with TemporaryDirectory() as place:
        for name in CONFIGS:
            folder = Path(place) / name
            theirs = save_random(name, folder)
            ours = load(folder).model
            family = ours.config.family
            if (family, "folder") not in rows:
                rows[family, "folder"] = _row(family, "folder", "random", on("cpu", ours), theirs, SEQUENCES, 64)
            if family in ARCHITECTURES and (family, "GGUF") not in rows:
                found = load(write(folder / "model.gguf", ours.config, gguf_tensors(ours))).model
                if replace(found.config, rms_norm_eps=ours.config.rms_norm_eps) == ours.config:  # which the file rounds to float32
                    rows[family, "GGUF"] = _row(family, "GGUF", "random", on("cpu", found), theirs, SEQUENCES, 64)
    return [*rows.values()]


def real_rows() -> list[Row]:
    """The GGUF files in ~/.cache/evalkit/models; transformers dequantises them itself."""
    rows, models = [], Path("~/.cache/evalkit/models").expanduser()
    for weights, file in REAL.items():
        loaded = load(models / file)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(models, gguf_file=file, dtype=torch.float32).eval()
        sequences = [loaded.tokenizer.encode(prompt) for prompt in PROMPTS]
        rows.append(_row(loaded.model.config.family, "GGUF", weights, on("cpu", loaded.model), theirs, sequences, 64))
    return rows


def _row(family, source, weights, ours, theirs, sequences, new_tokens) -> Row:
    found = parity(ours, theirs, sequences, new_tokens)
    print(family, source, weights, found, file=sys.stderr)
    return family, source, weights, f"{found.difference:.0e}", f"{found.equal} of {found.tokens}"


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (COLUMNS, ("---",) * len(COLUMNS), *sorted(rows)))


def read_table(page: str) -> list[Row]:
    """The header and the rows of the table on the page."""
    lines = page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    header, _, *rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    return [header, *rows]


def main() -> None:
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(random_rows() + real_rows())}{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
