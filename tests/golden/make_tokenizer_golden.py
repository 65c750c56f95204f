"""Fill tokenizer_corpus.json with token ids made by llama.cpp, which shares no code with moe_lm or the tokenizers library.

Run it again after adding a {"name": .., "text": ..} to the file's "cases", in an environment apart from the project's:

    python -m venv /tmp/golden && /tmp/golden/bin/pip install --only-binary :all: xllamacpp tiktoken
    /tmp/golden/bin/pip download --no-deps -d /tmp/golden dashscope && unzip -o -d /tmp/golden /tmp/golden/dashscope-*.whl
    /tmp/golden/bin/python tests/golden/make_tokenizer_golden.py --qwen-tiktoken /tmp/golden/dashscope/resources/qwen.tiktoken

xllamacpp is a prebuilt llama.cpp; dashscope carries Qwen's own vocabulary in tiktoken's format, a second reference for Qwen.
llama.cpp leaves out the NFC normalisation that Qwen's tokenizer.json has: where the two disagree, the ids stored are
tiktoken's over the normalised text (as Qwen's own code does it), and llama.cpp's are kept beside them under "llama_cpp".
"""

import argparse
import json
import os
import re
import unicodedata
import urllib.request
from importlib.metadata import version
from pathlib import Path

import tiktoken
import tiktoken.load
import xllamacpp

CORPUS = Path(__file__).with_name("tokenizer_corpus.json")
MODELS = Path(os.environ.get("EVALKIT_CACHE", "~/.cache/evalkit")).expanduser() / "models"
FILES = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "qwen2.5": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"}
QWEN_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_SPECIAL = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
INVISIBLE = re.compile("[\u00a0\u0300-\u036f\u2000-\u200f\u2028\u2029\u202f\u3000\ufe0f\ufeff]")


def llama_cpp_ids(model, texts):
    """Ids of each text: no BOS added, special tokens parsed."""
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.warmup, params.n_parallel = str(model), 256, False, 1
    server = xllamacpp.Server(params)
    ids = []
    for text in texts:
        body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
        request = urllib.request.Request(server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            ids.append(json.load(reply)["tokens"])
    return ids


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--qwen-tiktoken", type=Path, required=True, help="qwen.tiktoken from the dashscope package")
    args = parser.parse_args()
    golden = json.loads(CORPUS.read_text("utf-8"))
    texts = [case["text"] for case in golden["cases"]]
    ids = {name: llama_cpp_ids(MODELS / file, texts) for name, file in FILES.items()}
    ranks = tiktoken.load.load_tiktoken_bpe(str(args.qwen_tiktoken))
    qwen = tiktoken.Encoding("qwen", pat_str=QWEN_WORDS, mergeable_ranks=ranks, special_tokens=QWEN_SPECIAL)
    cases = []
    for i, (case, text) in enumerate(zip(golden["cases"], texts, strict=True)):
        case = {"name": case["name"], "text": text, "smollm2": ids["smollm2"][i], "qwen2.5": ids["qwen2.5"][i]}
        tiktoken_ids = qwen.encode(unicodedata.normalize("NFC", text), allowed_special="all")
        if tiktoken_ids != case["qwen2.5"]:
            print(f"{case['name']}: llama.cpp and tiktoken disagree on Qwen's ids")
            case["llama_cpp"] = {"qwen2.5": case["qwen2.5"]}
            case["qwen2.5"] = tiktoken_ids
        cases.append(case)
    made_with = {
        "command": "python tests/golden/make_tokenizer_golden.py --qwen-tiktoken PATH (see its docstring)",
        "ids": "llama.cpp /tokenize, add_special=False, parse_special=True; Qwen's checked against tiktoken over NFC text",
        "versions": {name: version(name) for name in ("xllamacpp", "tiktoken")},
        "models": FILES,
    }
    lines = ",\n    ".join(json.dumps(case, ensure_ascii=False) for case in cases)
    out = '{\n  "made_with": ' + json.dumps(made_with, indent=4).replace("\n}", "\n  }") + ',\n  "cases": [\n    ' + lines + "\n  ]\n}\n"
    CORPUS.write_text(INVISIBLE.sub(lambda m: f"\\u{ord(m[0]):04x}", out), "utf-8")


if __name__ == "__main__":
    main()
