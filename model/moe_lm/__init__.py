"""moe_lm: a self-contained inference package for dense and mixture-of-experts language models.

Scope: read a checkpoint (GGUF or a Hugging Face folder), score continuations with every shared prefix computed once,
generate greedily or by sampling. Limits: one device; no training.
It imports neither evalkit nor evalkit_tasks.
"""
