"""The `llama_cpp` back-end: a GGUF file in llama.cpp's own engine, in this process, through the C interface of the `xllamacpp` wheel."""
