"""A Hugging Face folder's tokenizer: tokenizer.json, with what the files beside it add or change, as transformers reads them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from moe_lm.errors import ModelError, Unsupported
from moe_lm.families.multimodal import text_config
from moe_lm.files import is_there, read_bytes, read_json, read_text, shown
from moe_lm.kinds import FLAG, TEXT, TOKEN_IDS, Kind
from moe_lm.tokenizer.library import attempt

# everything that decides how a text is tokenised, a conversation is written and an answer ends
FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
MAX_BYTES = 256 << 20  # of tokenizer.json: vocabularies of 260,000 tokens take 35 MB

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTED = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


def _is_template(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(t, dict) and isinstance(t.get("name"), str) and isinstance(t.get("template"), str) for t in value)
    return all(isinstance(text, str) for text in value.values()) if isinstance(value, dict) else isinstance(value, str)


_KINDS = {
    "tokenizer_class": TEXT.or_null(),
    "add_bos_token": FLAG.or_null(),
    "added_tokens_decoder": Kind("an object of tokens", lambda value: isinstance(value, dict)).or_null(),
    "chat_template": Kind("a text, or several by name", _is_template).or_null(),
}


@dataclass(frozen=True, slots=True)
class FolderTokenizer:
    """What a folder says: see `moe_lm.tokenizer.tokenizer.Tokenizer`, whose arguments these are."""

    fast: FastTokenizer
    settings: Mapping[str, Any]  # tokenizer_config.json
    eos_ids: tuple[int, ...]  # of config.json, generation_config.json and tokenizer_config.json, in this order
    chat_template: str | None
    bos_token: str
    eos_token: str


def read(folder: Path) -> FolderTokenizer:
    """Raises ModelError, naming the file, where one is missing, damaged or holds what transformers would not take."""
    fast = _fast(folder / "tokenizer.json")
    path = folder / "tokenizer_config.json"
    settings = _json(path)
    source = dict.fromkeys(settings, path)
    for key, kind in _KINDS.items():
        if key in settings and not kind.holds(settings[key]):
            raise ModelError(f"{path}: {key} = {shown(settings[key])} is not valid: it must be {kind.words}")
    if settings.get("split_special_tokens"):
        raise Unsupported(f"{path}: split_special_tokens = {shown(settings['split_special_tokens'])} is not supported, only false")
    given, is_added = settings.get("add_prefix_space"), getattr(fast.pre_tokenizer, "add_prefix_space", None)
    if isinstance(given, bool) and isinstance(is_added, bool) and given != is_added:  # which of them holds depends on the class and version
        raise Unsupported(
            f"{path}: add_prefix_space = {given} contradicts tokenizer.json, where it is {is_added}; write what is right in both"
        )
    if "added_tokens_decoder" not in settings:
        older = _json(folder / "special_tokens_map.json")
        settings, source = settings | older, source | dict.fromkeys(older, folder / "special_tokens_map.json")
    if added := _added_tokens(folder, settings, source, fast):
        attempt(f"{path} adds tokens that {folder / 'tokenizer.json'} can't take", fast.add_tokens, added)
    bos_token, eos_token = (_content(source.get(name), name, settings.get(name)) for name in ("bos_token", "eos_token"))
    template = folder / "chat_template.jinja"
    return FolderTokenizer(
        fast,
        settings,
        tuple(dict.fromkeys(_eos_ids(folder, fast.token_to_id(eos_token) if eos_token else None))),
        read_text(template) if is_there(template) else _default(settings.get("chat_template")),
        bos_token,
        eos_token,
    )


def _fast(path: Path) -> FastTokenizer:
    raw = read_bytes(path, MAX_BYTES).removeprefix(b"\xef\xbb\xbf")
    if not raw.strip():
        raise ModelError(f"{path} is empty; download it again")
    return attempt(f"{path} is not a readable tokenizer; download it again", FastTokenizer.from_buffer, raw)


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if is_there(path) else {}


def _added_tokens(folder: Path, settings: Mapping[str, Any], source: Mapping[str, Path], fast: FastTokenizer) -> list[AddedToken]:
    """The tokens that transformers adds to those of tokenizer.json, or puts in the place of one of them with other flags."""
    there = {token.content: repr(token) for token in fast.get_added_tokens_decoder().values()}
    found: dict[str, AddedToken] = {}
    for token in _decoder(folder, settings):
        if there.get(token.content) != repr(token):
            found[token.content] = token
    named = [(key, settings.get(key)) for key in _NAMED]
    for key in _LISTED:
        value = settings.get(key) or []
        if not isinstance(value, list | dict):
            raise ModelError(f"{source[key]}: {key} = {shown(value)} is not valid: it must be a list of tokens")
        named += [(key, each) for each in (value.values() if isinstance(value, dict) else value)]
    for key, value in named:
        content = _content(source.get(key), key, value)
        if content and content not in there.keys() | found.keys():
            flags = value if isinstance(value, dict) else {}
            found[content] = _token(source[key], key, {**flags, "content": content, "special": True})
    for content in {_content(source.get(key), key, settings.get(key)) for key in _NAMED} & found.keys():
        found[content].special = True
    return list(found.values())


def _decoder(folder: Path, settings: Mapping[str, Any]) -> Iterator[AddedToken]:
    """The tokens of added_tokens_decoder (id -> token) by their ids; without one, of added_tokens.json (token -> id)."""
    path, entries = folder / "tokenizer_config.json", settings.get("added_tokens_decoder")
    if entries is None:
        path = folder / "added_tokens.json"
        named = {settings.get(key) for key in _NAMED if isinstance(settings.get(key), str)}
        entries = {
            number: {"content": token, "special": token in named, "normalized": token not in named} for token, number in _json(path).items()
        }
    try:
        ordered = sorted(entries.items(), key=lambda entry: int(entry[0]))
    except (TypeError, ValueError):
        raise ModelError(f"{path} has an added token without a number: {shown(entries)}") from None
    for number, value in ordered:
        yield _token(path, f"token {number}", value)


def _token(path: Path | None, key: str, value: Any) -> AddedToken:
    flags = {flag: value[flag] for flag in _FLAGS if flag in value} if isinstance(value, dict) else {}
    if any(type(flag) is not bool for flag in flags.values()):
        raise ModelError(f"{path}: {key} = {shown(value)} is not valid: its flags must be true or false")
    return AddedToken(_content(path, key, value), **flags)


def _content(path: Path | None, key: str, token: Any) -> str:
    """The text of a special token, which is a string or {"content": ..}; "" for null."""
    content = token.get("content") if isinstance(token, dict) else "" if token is None else token
    if not isinstance(content, str):
        raise ModelError(f"{path}: {key} = {shown(token)} is not valid: it must be a token, in a string or an object with its content")
    return content


def _eos_ids(folder: Path, of_tokenizer: int | None) -> Iterator[int]:
    """All ids at which transformers would end an answer, and the tokenizer's own."""
    for name in ("config.json", "generation_config.json"):
        value = text_config(_json(folder / name)).get("eos_token_id")
        if value is not None and not TOKEN_IDS.holds(value):
            raise ModelError(f"{folder / name}: eos_token_id = {shown(value)} is not valid: it must be {TOKEN_IDS.words}")
        yield from () if value is None else (value,) if isinstance(value, int) else value
    if of_tokenizer is not None:
        yield of_tokenizer


def _default(templates: Any) -> str | None:
    """The chat template, of which tokenizer_config.json may hold several by name: the one named "default" is meant."""
    if isinstance(templates, list):
        templates = {t["name"]: t["template"] for t in templates}
    return templates.get("default") if isinstance(templates, dict) else templates
