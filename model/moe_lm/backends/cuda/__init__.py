"""A GPU's kernels in Triton: routing, the experts' grouped GEMM, their sum, attention over a paged cache; and the back-end on them.

One stem a kernel: kernel and launcher here, its test in tests/kernels, its benchmark in model/bench. `moe_lm.backends.formulas` is what
all of them are compared with. With TRITON_INTERPRET=1, set before Triton is imported, they run on a CPU: slowly, for tests.
"""
