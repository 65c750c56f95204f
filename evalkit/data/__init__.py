"""Rows of a benchmark, from a folder, the hub or the sample."""
