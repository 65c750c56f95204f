"""Judged benchmarks: a language model behind an OpenAI-compatible server grades answers (`evalkit judge`).

A run's samples -> asks (prompts.py) -> store: judged already? -> client -> store -> ratings -> score -> run.json, FastChat's files
"""
