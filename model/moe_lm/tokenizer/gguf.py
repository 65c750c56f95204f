"""A GGUF's metadata -> a tokenizer of the `tokenizers` library. llama.cpp's src/llama-vocab.cpp is the reference.

Model "gpt2": byte-level BPE with the file's merges; `tokenizer.ggml.pre` names the way a text is cut into words first.
Model "llama": SentencePiece's BPE, with a score a piece in place of merges, and byte tokens for characters without a piece.
"""

from tokenizers import AddedToken, decoders, models, normalizers, processors
from tokenizers import Tokenizer as FastTokenizer

from moe_lm.errors import ModelError, Unsupported
from moe_lm.files import shown
from moe_lm.tokenizer.gguf_vocabulary import CONTROL, NO_TEXT, UNKNOWN, USER_DEFINED, Vocabulary
from moe_lm.tokenizer.pre_types import PRE_TYPES, PreType

_BLANK = "\u2581"  # SentencePiece's space

# files of the first llama.cpp that wrote GGUF name no pre-tokenizer: the architectures, and a token, that leave no doubt about it
_OF_ARCHITECTURE = {"qwen2": "qwen2", "qwen2moe": "qwen2", "deepseek": "deepseek-llm"}
_LLAMA3_BOS = "<|begin_of_text|>"
_OF_TOKEN = {_LLAMA3_BOS: "llama-bpe"}


def build(vocabulary: Vocabulary) -> tuple[FastTokenizer, int | None]:
    """The tokenizer, and the id of BOS where the model wants one. Raises ModelError for a kind that is not built here, by name."""
    model = vocabulary.metadata.get("tokenizer.ggml.model")
    bos_id: int | None
    if model == "llama":
        fast, add_bos, bos_id = _sentencepiece(vocabulary), True, 1
    elif model == "gpt2":
        pre = _pre_type(vocabulary)
        fast, add_bos, bos_id = _byte_level(vocabulary, pre), pre.add_bos, vocabulary.ids.get(_LLAMA3_BOS)
    else:
        raise Unsupported(f"GGUF tokenizer {shown(model)} is not supported; known: 'llama' and 'gpt2'")
    for some, special in (((CONTROL, UNKNOWN), True), ((USER_DEFINED,), False)):
        rows = zip(vocabulary.tokens, vocabulary.kinds, strict=True)
        fast.add_tokens([AddedToken(token, normalized=False, special=special) for token, kind in rows if kind in some])
    if not vocabulary.flag("add_bos_token", add_bos):
        return fast, None
    bos_id = vocabulary.id("bos", bos_id)
    if bos_id is None and "tokenizer.ggml.add_bos_token" not in vocabulary.metadata:
        return fast, None  # llama.cpp's default for the kind, and a vocabulary that has no such token
    if bos_id is None:
        raise ModelError("the GGUF's tokenizer wants a BOS token and names none: tokenizer.ggml.bos_token_id is missing")
    put_in_front(fast, vocabulary.tokens[bos_id], bos_id)
    return fast, bos_id


def _pre_type(vocabulary: Vocabulary) -> PreType:
    metadata = vocabulary.metadata
    name = metadata.get("tokenizer.ggml.pre") or _OF_ARCHITECTURE.get(metadata.get("general.architecture", ""))
    name = name or next((pre for token, pre in _OF_TOKEN.items() if token in vocabulary.ids), None)
    if name is None:
        raise ModelError(
            "the GGUF file names no pre-tokenizer (tokenizer.ggml.pre), so its tokens would be guessed; "
            "convert the model again with a current llama.cpp"
        )
    if not isinstance(name, str) or name not in PRE_TYPES:
        raise Unsupported(f"GGUF pre-tokenizer {shown(name)} is not supported; known: {', '.join(PRE_TYPES)}")
    return PRE_TYPES[name]


def put_in_front(fast: FastTokenizer, bos_token: str, bos_id: int) -> None:
    """Make other readers of the saved tokenizer.json add BOS; Tokenizer.encode leaves post-processing out."""
    fast.post_processor = processors.TemplateProcessing(single=[bos_token, "$A"], special_tokens=[(bos_token, bos_id)])


def _byte_level(vocabulary: Vocabulary, pre: PreType) -> FastTokenizer:
    merges = vocabulary.merges()
    fast = FastTokenizer(
        models.BPE(vocab=vocabulary.ids, merges=merges, fuse_unk=False, byte_fallback=False, ignore_merges=pre.ignore_merges)
    )
    fast.pre_tokenizer = pre.words()
    if pre.normalizer:
        fast.normalizer = pre.normalizer()
    fast.decoder = decoders.ByteLevel()
    return fast


def _sentencepiece(vocabulary: Vocabulary) -> FastTokenizer:
    unknown = vocabulary.tokens[vocabulary.id("unknown", 0) or 0]
    merges = _merges(vocabulary)
    fast = FastTokenizer(models.BPE(vocab=vocabulary.ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    blanks = normalizers.Replace(" ", _BLANK)
    text = [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.flag("add_space_prefix", True):
        # before every stretch of text between special tokens, as llama.cpp and Llama's own tokenizer.json do
        fast.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), blanks])
        text.append(decoders.Strip(" ", left=1, right=0))
    else:
        fast.normalizer = blanks
    fast.decoder = decoders.Sequence(text)
    return fast


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to make a piece of two, the best score first.

    Where several pairs make the same piece, SentencePiece merges the leftmost in the text, and a list of merges the pair that stands
    first in it. Here that is the pair with the longest left part, as in transformers' generate_merges, which wrote these models'
    tokenizer.json.
    """
    # pieces that are no text: nothing that a user types may merge into a control token
    rows = zip(vocabulary.tokens, vocabulary.scores(), vocabulary.kinds, strict=True)
    scores = {token: score for token, score, kind in rows if kind not in NO_TEXT}
    pairs = ((piece[:cut], piece[cut:]) for piece in scores for cut in range(1, len(piece)))
    found = [(left, right) for left, right in pairs if left in scores and right in scores]
    return sorted(found, key=lambda pair: (scores["".join(pair)], len(pair[0])), reverse=True)
