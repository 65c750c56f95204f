"""Weights as their files store them: small integers in blocks, each block with its scale."""
