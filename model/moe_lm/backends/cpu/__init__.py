"""The CPU's compiled kernels."""
