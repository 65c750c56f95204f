"""Judged benchmarks: a language model behind an OpenAI-compatible server grades answers (`evalkit judge`).

A run's samples -> asks (prompts.py) -> ledger: judged already? -> client -> ledger -> ratings -> score -> run.json, FastChat's files
"""
