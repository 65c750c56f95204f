"""Quantised Hugging Face folders: one file a format, each of which finds a weight's codes, scales and zero points in its tensors."""
