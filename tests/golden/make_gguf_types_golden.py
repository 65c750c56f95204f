"""Make gguf_types.json: the types that llama.cpp's own quantize gives the tensors of tiny models, in each file type.

    pip install llama-cpp-python    # it has the function; the other wheels of llama.cpp do not
    PYTHONPATH=model:tests/helpers python tests/golden/make_gguf_types_golden.py

Tensors that are float32, or of the file type's main type, are left out. Each file that we write is compared byte for byte, too.
"""

import ctypes
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import llama_cpp
import numpy as np
from folders_to_convert import QUANTISED

from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.checkpoint.random_weights import random_checkpoint
from moe_lm.checkpoint.write_gguf import plan
from moe_lm.quant.file_types import FILE_TYPES

OUT = Path(__file__).with_name("gguf_types.json")


def types_of(case, name, folder):
    """llama.cpp's types; raises AssertionError where one byte of a tensor is not ours."""
    checkpoint, file_type = random_checkpoint(QUANTISED[case]), FILE_TYPES[name]
    source, ours, theirs = (folder / f"{which}.gguf" for which in ("source", "ours", "theirs"))
    plan(checkpoint, FILE_TYPES["f32"], case).write(source)
    plan(checkpoint, file_type, case).write(ours)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type.number
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(theirs).encode(), ctypes.byref(params)) == 0
    found, written = GGUFFile(theirs), GGUFFile(ours)
    for tensor in found.tensors:
        assert np.array_equal(found.blocks(tensor), written.blocks(tensor)), (case, name, tensor)
    return {tensor: info.type.name for tensor, info in found.tensors.items() if info.type.name not in ("F32", file_type.kind)}


def main():
    names = [name for name in FILE_TYPES if name != "f32"]
    with tempfile.TemporaryDirectory() as folder:
        types = {case: {name: types_of(case, name, Path(folder)) for name in names} for case in QUANTISED}
    made_with = {"command": "python tests/golden/make_gguf_types_golden.py", "llama-cpp-python": version("llama-cpp-python")}
    OUT.write_text(json.dumps({"made_with": made_with, "types": types}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
