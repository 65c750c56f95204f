"""Make gguf_tokenizers.json: small vocabularies, and the ids that llama.cpp gives with them for the texts of tokenizer_corpus.json.

    python -m venv /tmp/golden && /tmp/golden/bin/pip install --only-binary :all: xllamacpp gguf tokenizers numpy
    /tmp/golden/bin/python tests/golden/make_gguf_tokenizer_golden.py

The vocabularies are trained on those texts without cutting them into words: pieces reach over words, digits and punctuation, so
that ids show every place where a pre-tokenizer cuts. Each goes, with one layer of zeros, into a GGUF file for llama.cpp to serve.
"""

import json
import re
import tempfile
from importlib.metadata import version
from pathlib import Path

import gguf
import numpy as np
from make_tokenizer_golden import CORPUS, INVISIBLE, llama_cpp_ids
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

OUT = Path(__file__).with_name("gguf_tokenizers.json")
PRE_TYPES = (
    "llama-bpe",
    "deepseek-llm",
    "gpt-2",
    "default",
    "smollm",
    "qwen2",
    "dbrx",
    "tekken",
    "gpt-4o",
    "deepseek-coder",
    "deepseek-v3",
)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
# more than the corpus has of what these pre-tokenizers disagree about
MORE = ["It'S 12345678 o'CLOCK, I'LL go!?", "1234 56789\n\n  7", "x+=1;  y<=2 |~^ $5", "Ωmega Ǆ ა中文 カナ한국 end  \n", "a  <b>  c \t"]


def train(texts, pre_tokenizer, normalizer, size, alphabet):
    """Tokens and merges of a BPE trained on whole texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, max_token_length=12, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [" ".join(merge) for merge in model["merges"]]


def byte_level(texts):
    """A gpt2 vocabulary. "123" is a token without merges: only ignore_merges finds it."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens, merges = train(texts, byte_level, None, 500, byte_level.alphabet())
    tokens = ["<|end|>", "<|im_start|>", "<|im_end|>", *tokens, "123"]
    return {"model": "gpt2", "tokens": tokens, "token_type": [CONTROL] * 3 + [NORMAL] * (len(tokens) - 3), "merges": merges}


def sentencepiece(texts):
    """A llama vocabulary, in the order of Llama's: special tokens, bytes, pieces with score -rank, a run of blanks as Gemma's."""
    pieces, merges = train(texts, None, normalizers.Replace(" ", "\u2581"), 700, [])
    merged = [merge.replace(" ", "") for merge in merges]
    pieces = [*dict.fromkeys(merged), *(p for p in pieces if p not in set(merged))]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "<|im_start|>", "<|im_end|>", "   "]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, CONTROL, CONTROL, USER_DEFINED]
    # left to the byte tokens; llama.cpp reads a piece that is NUL as an empty one
    rare = {p for p in pieces if len(p) == 1 and ord(p) > 0x3000} | {"\0"}
    pieces = [p for p in pieces if not rare & set(p)]
    scores = [0.0] * len(special) + [-float(i) for i in range(len(pieces))]
    return {"model": "llama", "tokens": special + pieces, "token_type": kinds + [NORMAL] * len(pieces), "scores": scores}


def write_gguf(path, metadata):
    """A one-layer llama of zeros with this tokenizer."""
    size = len(metadata["tokens"])
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_context_length, 256),
        (writer.add_embedding_length, 32),
        (writer.add_block_count, 1),
        (writer.add_feed_forward_length, 32),
        (writer.add_head_count, 1),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_vocab_size, size),
        (writer.add_tokenizer_model, metadata["model"]),
        (writer.add_token_list, metadata["tokens"]),
        (writer.add_token_types, metadata["token_type"]),
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2),
    ):
        add(value)
    if "scores" in metadata:
        writer.add_token_scores(metadata["scores"])
    if "merges" in metadata:
        writer.add_token_merges(metadata["merges"])
        writer.add_tokenizer_pre(metadata["pre"])
    if "add_space_prefix" in metadata:
        writer.add_add_space_prefix(metadata["add_space_prefix"])
    for name, shape in {
        "token_embd": (size, 32),
        "output_norm": (32,),
        **{f"blk.0.{name}": (32, 32) for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")},
        **{f"blk.0.{name}": (32,) for name in ("attn_norm", "ffn_norm")},
    }.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    texts = [case["text"] for case in json.loads(CORPUS.read_text("utf-8"))["cases"]] + MORE
    bpe, spm = byte_level(texts), sentencepiece(texts)
    kinds = {pre: bpe | {"pre": pre} for pre in PRE_TYPES}
    kinds |= {"spm": spm, "spm-no-prefix": spm | {"add_space_prefix": False}}
    ids = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, metadata in kinds.items():
            write_gguf(Path(folder) / f"{name}.gguf", metadata)
            ids[name] = llama_cpp_ids(Path(folder) / f"{name}.gguf", texts)
    versions = {name: version(name) for name in ("xllamacpp", "tokenizers")}
    golden = {
        "made_with": {"command": "python tests/golden/make_gguf_tokenizer_golden.py", "versions": versions},
        "more": MORE,
        "vocabularies": {"gpt2": bpe, "llama": spm},
        "ids": ids,
    }
    lines = re.sub(r"\n\s{3,}", "", json.dumps(golden, ensure_ascii=False, indent=1))
    OUT.write_text(INVISIBLE.sub(lambda m: f"\\u{ord(m[0]):04x}", lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
