"""llama.cpp's C interface (its include/llama.h) in the shared library of the `xllamacpp` wheel, called through ctypes.

The wheel's own Python classes reach its server alone, which gives no log-likelihoods. The parameters of models and contexts are C
structures that change from one version to the next, so their layout is checked against llama.cpp's defaults before anything is loaded:
every field here has a default by which it is recognised or, where that is 0, stands between such fields.
"""

import ctypes
import importlib.util
from collections import deque
from collections.abc import Callable
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_bool,
    c_char_p,
    c_float,
    c_int8,
    c_int32,
    c_size_t,
    c_uint8,
    c_uint32,
    c_void_p,
)
from functools import cache
from importlib.metadata import version
from typing import Any

from evalkit.errors import EvalkitError, pip_install

PACKAGE = "xllamacpp"
TESTED = "2026.10.11549"
_SPARE = c_uint8 * 256  # llama.cpp reads and writes what its own structure has behind the fields that are named here
_KEPT_LINES = 40  # of the log
_ERROR, _CONTINUED = 4, 5  # ggml_log_level


class ModelParams(Structure):
    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("spare", _SPARE),
    )


class ContextParams(Structure):
    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int32),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("spare", _SPARE),
    )


class Batch(Structure):
    """Tokens with their positions and sequences; `logits` marks those whose logits are wanted."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", c_void_p),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", c_void_p),
        ("logits", POINTER(c_int8)),
    )


_MODEL_DEFAULTS = {
    "n_gpu_layers": -1,
    "split_mode": 1,
    "load_mode": -1,
    "lazy_mode": 1,
    "main_gpu": 0,
    "vocab_only": False,
    "check_tensors": False,
    "use_extra_bufts": True,
}
_CONTEXT_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_rs_seq": 0,
    "n_outputs_max": 0,
    "n_outputs_max_per_seq": 1,
    "n_threads": 4,
    "n_threads_batch": 4,
    "ctx_type": 0,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "yarn_orig_ctx": 0,
    "defrag_thold": -1.0,
    "type_k": 1,
    "type_v": 1,
    "moe_cache_size": 0,
    "embeddings": False,
    "offload_kqv": True,
    "no_perf": True,
    "op_offload": True,
    "swa_full": True,
    "kv_unified": False,
}

_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_backend_init": (None, []),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
    "llama_model_free": (None, [c_void_p]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParams]),
    "llama_free": (None, [c_void_p]),
    "llama_n_ctx_seq": (c_uint32, [c_void_p]),
    "llama_n_batch": (c_uint32, [c_void_p]),
    "llama_n_ubatch": (c_uint32, [c_void_p]),
    "llama_n_seq_max": (c_uint32, [c_void_p]),
    "llama_n_threads": (c_int32, [c_void_p]),
    "llama_model_has_encoder": (c_bool, [c_void_p]),
    "llama_model_has_decoder": (c_bool, [c_void_p]),
    "llama_model_is_diffusion": (c_bool, [c_void_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_memory_seq_cp": (None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits_ith": (POINTER(c_float), [c_void_p, c_int32]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_vocab_type": (c_int32, [c_void_p]),
    "llama_vocab_get_text": (c_char_p, [c_void_p, c_int32]),
    "llama_vocab_is_eog": (c_bool, [c_void_p, c_int32]),
    "llama_vocab_is_control": (c_bool, [c_void_p, c_int32]),
    "llama_vocab_bos": (c_int32, [c_void_p]),
    "llama_vocab_eos": (c_int32, [c_void_p]),
    "llama_vocab_get_add_bos": (c_bool, [c_void_p]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
    "llama_token_to_piece": (c_int32, [c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool]),
    "llama_print_system_info": (c_char_p, []),
}


class Library:
    """The functions by their names in llama.h. What llama.cpp writes to its log is kept, and shown only where it explains an error."""

    def __init__(self, path: str):
        """Raises EvalkitError where it is not a llama.cpp that this module knows."""
        try:
            self._c = ctypes.CDLL(path)
            for name, (result, arguments) in _FUNCTIONS.items():
                function = getattr(self._c, name)
                function.restype, function.argtypes = result, arguments
            log_set = self._c.llama_log_set
        except (OSError, AttributeError) as error:
            raise EvalkitError(f"{PACKAGE} {_installed()} is not usable here ({error}); run `{_pip()}`") from None
        self._lines: deque[tuple[int, str]] = deque(maxlen=_KEPT_LINES)
        self._log = CFUNCTYPE(None, c_int32, c_char_p, c_void_p)(self._keep)  # referred to as long as llama.cpp may call it
        log_set(self._log, None)
        self.check_layout()
        self.llama_backend_init()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return getattr(self._c, name)

    def check_layout(self) -> None:
        """Raises EvalkitError where the structures here are not the library's."""
        both = ((self.llama_model_default_params(), _MODEL_DEFAULTS), (self.llama_context_default_params(), _CONTEXT_DEFAULTS))
        for found, expected in both:
            for name, value in expected.items():
                if getattr(found, name) != value:
                    raise EvalkitError(
                        f"{PACKAGE} {_installed()} has other parameters than the version that evalkit knows ({name} is not {value}); "
                        f"run `{_pip()}`"
                    )

    def _keep(self, level: int, text: bytes, _: object) -> None:
        line = text.decode("utf-8", "replace")
        if level == _CONTINUED and self._lines:
            level, before = self._lines.pop()
            line = before + line
        self._lines.append((level, line))

    def why(self) -> str:
        """The first error in the log since it was read last."""
        lines = [line.strip() for level, line in self._lines if level == _ERROR and line.strip()]
        self._lines.clear()
        return lines[0] if lines else "it gave no reason"

    def build(self) -> str:
        """The wheel's version, and the instruction sets and options that it was built with."""
        flags = self.llama_print_system_info().decode().replace(" = 1", "").replace(" |", "").replace(" :", ":").strip()
        return f"{PACKAGE} {_installed()} ({flags})"


@cache
def library() -> Library:
    """The library, loaded once in a process. Raises EvalkitError, with the command that installs it, where it is missing."""
    require_installed()
    found = importlib.util.find_spec(f"{PACKAGE}.{PACKAGE}")
    if found is None or found.origin is None:
        raise EvalkitError(f"{PACKAGE} {_installed()} has no compiled library; run `{_pip()}`")
    return Library(found.origin)


def require_installed() -> None:
    """Raises EvalkitError, with the command that installs it, where the wheel is missing. Loads nothing."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise EvalkitError(f"--engine llama_cpp needs llama.cpp; run {pip_install('llama-cpp')}")


def _installed() -> str:
    return version(PACKAGE)


def _pip() -> str:
    return f"pip install {PACKAGE}=={TESTED}"
