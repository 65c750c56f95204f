"""A tokenizer of the `tokenizers` library in the words of GGUF, the keys tokenizer.ggml.*, which `gguf` reads.

What is written is read back, and has to give the same tokens for texts that tell tokenizers apart: many scripts, runs of blanks, digits
and signs, decomposed letters, and every special token in the midst of a text. A tokenizer that GGUF has no words for is refused by name.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from moe_lm.errors import ModelError, Unsupported
from moe_lm.files import shown
from moe_lm.tokenizer.gguf_vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from moe_lm.tokenizer.pre_types import PRE_TYPES, PreType
from moe_lm.tokenizer.probe_texts import TEXTS
from moe_lm.tokenizer.token_text import fallback_byte
from moe_lm.tokenizer.tokenizer import Tokenizer

Keys = dict[str, Any]


def keys_of(tokenizer: Tokenizer, rows: int) -> Keys:
    """The keys tokenizer.* for an embedding of `rows` rows. Raises Unsupported, by name, for a tokenizer they can't describe."""
    fast = tokenizer.fast
    state = json.loads(fast.to_str())
    model = state["model"]
    if model["type"] != "BPE" or model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        raise Unsupported(f"a tokenizer of type {model['type']} can't be written as GGUF, only BPE of bytes or of SentencePiece")
    for token in fast.get_added_tokens_decoder().values():
        if flags := [flag for flag in ("lstrip", "rstrip", "single_word") if getattr(token, flag)]:
            raise Unsupported(f"the tokenizer can't be written as GGUF: {shown(token.content)} is {flags[0]}, for which it has no key")
    common = _vocabulary(fast, rows, model) | _specials(tokenizer)
    merges = _merges(tokenizer)
    tries = _sentencepiece(fast, merges, model, common) if model["byte_fallback"] else _byte_level(fast, merges, model)
    problems = []
    for special in tries:
        keys = {f"tokenizer.{key}": value for key, value in (common | special).items()}
        if (problem := _problem(tokenizer, keys, rows)) is None:
            return keys
        problems.append(problem)
    problem = problems[0] if problems else "no pre-tokenizer that llama.cpp has a name for cuts texts as this one does"
    raise Unsupported(f"the tokenizer can't be written as GGUF: {problem}")


def _vocabulary(fast: FastTokenizer, rows: int, model: Mapping[str, Any]) -> Keys:
    """A token for each row, of its kind. Rows without a token are named as llama.cpp's converter does."""
    added = fast.get_added_tokens_decoder()
    tokens = {i: token for token, i in fast.get_vocab(with_added_tokens=True).items()}

    def kind(i: int) -> int:
        if i not in tokens:
            return UNUSED
        if tokens[i] == model["unk_token"]:
            return UNKNOWN
        if i in added:
            return CONTROL if added[i].special else USER_DEFINED
        return BYTE if fallback_byte(tokens[i]) is not None and model["byte_fallback"] else NORMAL

    return {"ggml.tokens": [tokens.get(i, f"[PAD{i}]") for i in range(rows)], "ggml.token_type": [kind(i) for i in range(rows)]}


def _specials(tokenizer: Tokenizer) -> Keys:
    """BOS, the ends of a text, a turn and a message, and the chat template."""
    found: Keys = {"ggml.add_bos_token": tokenizer.bos_id is not None}
    bos = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.fast.token_to_id(tokenizer.bos_token or "")
    if bos is not None:
        found["ggml.bos_token_id"] = bos
    first = tokenizer.fast.token_to_id(tokenizer.eos_token or "") if tokenizer.bos_id is not None else tokenizer.prefix_id
    ends = sorted(tokenizer.stop_ids, key=lambda i: (i != first, i))
    found |= dict(zip(("ggml.eos_token_id", "ggml.eot_token_id", "ggml.eom_token_id"), ends, strict=False))
    if len(ends) > 3:
        found["ggml.eos_token_ids"] = ends
    if tokenizer.chat_template:
        found["chat_template"] = tokenizer.chat_template
    return found


def _byte_level(fast: FastTokenizer, merges: Iterable[tuple[str, ...]], model: Mapping[str, Any]) -> Iterator[Keys]:
    for name, pre in PRE_TYPES.items():
        if bool(model["ignore_merges"]) == pre.ignore_merges and _cuts_alike(fast, pre):
            yield {"ggml.model": "gpt2", "ggml.pre": name, "ggml.merges": [" ".join(pair) for pair in merges]}


def _cuts_alike(fast: FastTokenizer, pre: PreType) -> bool:
    """Does the tokenizer cut texts into the same words, and normalise them alike?"""
    words, normalizer = pre.words(), pre.normalizer() if pre.normalizer else None
    if fast.pre_tokenizer is None:
        return False
    for text in TEXTS:
        ours, theirs = (each.normalize_str(text) if each else text for each in (fast.normalizer, normalizer))
        if ours != theirs or fast.pre_tokenizer.pre_tokenize_str(ours) != words.pre_tokenize_str(ours):
            return False
    return True


def _sentencepiece(fast: FastTokenizer, merges: list[tuple[str, ...]], model: Mapping[str, Any], common: Keys) -> Iterator[Keys]:
    """Scores in place of merges: a piece's is the greater, the sooner it is merged. Pieces that are never merged need none."""
    order = {piece: -float(i) for i, piece in enumerate(dict.fromkeys("".join(pair) for pair in merges), 1)}
    found: Keys = {"ggml.model": "llama", "ggml.pre": "default", "ggml.scores": [order.get(token, 0.0) for token in common["ggml.tokens"]]}
    if (unknown := fast.token_to_id(model["unk_token"] or "")) is not None:
        found["ggml.unknown_token_id"] = unknown
    for add_space_prefix in (True, False):
        yield found | {"ggml.add_space_prefix": add_space_prefix}


def _problem(tokenizer: Tokenizer, keys: Keys, rows: int) -> str | None:
    """What a reader of the keys would do otherwise than the tokenizer, in words; None for nothing."""
    try:
        read = Tokenizer.from_gguf(keys)
        read.fit(rows)
    except ModelError as error:
        return str(error)
    if _merges(tokenizer) != _merges(read):
        return "its merges are not in the order of any scores"
    for what in ("bos_id", "stop_ids", "prefix_id", "chat_template"):
        ours, theirs = getattr(tokenizer, what), getattr(read, what)
        if ours != theirs:
            return f"its {what} is {shown(ours)}, and would be read as {shown(theirs)}"
    for what in ("bos_token", "eos_token"):
        ours, theirs = getattr(tokenizer, what), getattr(read, what)
        if what in (tokenizer.chat_template or "") and ours != theirs:
            return f"its chat template writes {what}, which is {shown(ours)}, and would be read as {shown(theirs)}"
    for text in _probes(tokenizer.fast.get_added_tokens_decoder(), rows):
        ours, theirs = tokenizer.encode_plain(text), read.encode_plain(text)
        if ours != theirs:
            return f"it would cut {shown(text)} into {shown(theirs[:12])} and not into {shown(ours[:12])}"
        if tokenizer.decode(ours) != read.decode(ours):
            return f"it would write the tokens {shown(ours[:12])} as {shown(read.decode(ours))} and not as {shown(tokenizer.decode(ours))}"
    return None


def _merges(tokenizer: Tokenizer) -> list[tuple[str, ...]]:
    """The pairs of pieces that become one, the first of them first."""
    merges = json.loads(tokenizer.fast.to_str())["model"]["merges"]
    return [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in merges]


def _probes(added: Mapping[int, AddedToken], rows: int) -> Iterator[str]:
    """Texts without tokens for which the embedding has no row."""
    beyond = [re.escape(token.content) for i, token in added.items() if i >= rows]
    for text in TEXTS:
        yield re.sub("|".join(beyond), "", text) if beyond else text
    for i, token in added.items():
        if i < rows:
            yield f"a {token.content} b{token.content}c"
