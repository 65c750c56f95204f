"""A GGUF's metadata -> a tokenizer of the `tokenizers` library. llama.cpp's src/llama-vocab.cpp is the reference.

Model "gpt2": byte-level BPE with the file's merges; `tokenizer.ggml.pre` names the way a text is cut into words first.
Model "llama": SentencePiece's BPE, with a score a piece in place of merges, and byte tokens for characters without a piece.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as FastTokenizer

from moe_lm.errors import ModelError

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # tokenizer.ggml.token_type
_BLANK = "\u2581"  # SentencePiece's space

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# DeepSeek's list of alphabets with upper and lower case, as its tokenizer.json and llama.cpp spell it out
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4"
    "\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d"
    "\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb"
    "\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK = (
    r"[\r\n]",
    rf"\s?[{_CASED}]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
    r"\p{N}+",
)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")


def _split(*patterns: str) -> pre_tokenizers.PreTokenizer:
    """Cut at each pattern's matches in turn, each within the pieces that those before it left."""
    steps = [pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False) for pattern in patterns]
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _smollm() -> pre_tokenizers.PreTokenizer:
    # digits first, one by one: transformers' GGUF path loses this step and tokenises "x =  5" wrongly
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])


@dataclass(frozen=True, slots=True)
class _PreType:
    """What one name of `tokenizer.ggml.pre` stands for."""

    words: Callable[[], pre_tokenizers.PreTokenizer]
    normalizer: Callable[[], normalizers.Normalizer] | None = None
    ignore_merges: bool = False  # a word that is a token is that token, whatever its merges make of it
    add_bos: bool = False  # where the file does not say


_PRE_TYPES: dict[str, _PreType] = {
    "smollm": _PreType(_smollm),
    "qwen2": _PreType(lambda: _split(_QWEN2), normalizers.NFC),
    "llama-bpe": _PreType(lambda: _split(_LLAMA3), ignore_merges=True, add_bos=True),
    "deepseek-llm": _PreType(lambda: _split(*_DEEPSEEK)),
    "gpt-2": _PreType(lambda: pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "default": _PreType(lambda: _split(*_DEFAULT)),
}


def build(metadata: Mapping[str, Any]) -> tuple[FastTokenizer, int | None]:
    """The tokenizer, and the id of BOS where the model wants one. Raises ModelError for a kind that is not built here, by name."""
    model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    tokens: Sequence[str] = metadata.get("tokenizer.ggml.tokens", ())
    if model == "llama":
        fast, add_bos, bos_id = _sentencepiece(metadata), True, 1
    elif model == "gpt2" and pre in _PRE_TYPES:
        fast, add_bos, bos_id = _byte_level(metadata, _PRE_TYPES[pre]), _PRE_TYPES[pre].add_bos, None
    else:
        known = ", ".join(_PRE_TYPES)
        raise ModelError(f"GGUF tokenizer {model!r} with pre-tokenizer {pre!r} is not supported; known: llama; gpt2 with {known}")
    kinds = metadata["tokenizer.ggml.token_type"]
    for some, special in (((_CONTROL, _UNKNOWN), True), ((_USER_DEFINED,), False)):
        fast.add_tokens([AddedToken(t, normalized=False, special=special) for t, k in zip(tokens, kinds, strict=True) if k in some])
    if not metadata.get("tokenizer.ggml.add_bos_token", add_bos):
        return fast, None
    bos_id = metadata.get("tokenizer.ggml.bos_token_id", bos_id)
    if bos_id is None:
        raise ModelError("the GGUF's tokenizer wants a BOS token and names none: tokenizer.ggml.bos_token_id is missing")
    put_in_front(fast, tokens[bos_id], bos_id)
    return fast, bos_id


def put_in_front(fast: FastTokenizer, bos_token: str, bos_id: int) -> None:
    """BOS for those who read the saved tokenizer.json; Tokenizer.encode leaves post-processing out."""
    fast.post_processor = processors.TemplateProcessing(single=[bos_token, "$A"], special_tokens=[(bos_token, bos_id)])


def _byte_level(metadata: Mapping[str, Any], pre: _PreType) -> FastTokenizer:
    vocab = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    fast = FastTokenizer(models.BPE(vocab=vocab, merges=merges, fuse_unk=False, byte_fallback=False, ignore_merges=pre.ignore_merges))
    fast.pre_tokenizer = pre.words()
    if pre.normalizer:
        fast.normalizer = pre.normalizer()
    fast.decoder = decoders.ByteLevel()
    return fast


def _sentencepiece(metadata: Mapping[str, Any]) -> FastTokenizer:
    tokens = metadata["tokenizer.ggml.tokens"]
    vocab = {token: i for i, token in enumerate(tokens)}
    unknown = tokens[metadata.get("tokenizer.ggml.unknown_token_id", 0)]
    fast = FastTokenizer(models.BPE(vocab=vocab, merges=_merges(metadata), unk_token=unknown, fuse_unk=True, byte_fallback=True))
    blanks = normalizers.Replace(" ", _BLANK)
    text = [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        # before every stretch of text between special tokens, as llama.cpp and Llama's own tokenizer.json do
        fast.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), blanks])
        text.append(decoders.Strip(" ", left=1, right=0))
    else:
        fast.normalizer = blanks
    fast.decoder = decoders.Sequence(text)
    return fast


def _merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every way to make a piece of two, the best score first.

    Of several ways to one piece SentencePiece takes the leftmost in the text, a list of merges the first it names: the longest left
    part here, as transformers' generate_merges has it, which made these models' tokenizer.json.
    """
    names = ("tokens", "scores", "token_type")
    rows = zip(*(metadata[f"tokenizer.ggml.{name}"] for name in names), strict=True)
    # pieces that are no text: nothing that a user types may merge into a control token
    scores = {token: score for token, score, kind in rows if kind not in (_UNKNOWN, _CONTROL, _BYTE)}
    pairs = ((piece[:cut], piece[cut:]) for piece in scores for cut in range(1, len(piece)))
    found = [(left, right) for left, right in pairs if left in scores and right in scores]
    return sorted(found, key=lambda pair: (scores["".join(pair)], len(pair[0])), reverse=True)
