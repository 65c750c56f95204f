"""GPU kernels in Triton: routing, the experts' grouped GEMM, their sum, attention over a paged cache. `compiled`: a CPU's, in C++.

One stem a kernel: kernel and launcher here, its test in tests/kernels, its benchmark in model/bench. `reference.py` is
what all of them are held to. Triton is imported by these modules alone, and they only by who has chosen the `triton` tenant;
`experts_torch`, the experts of the `torch` tenant, is for a CPU without a C++ compiler.
With TRITON_INTERPRET=1, set before Triton is imported, they run on a CPU: slowly, for tests.
"""
