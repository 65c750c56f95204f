"""GPU kernels in Triton: routing, the experts' grouped GEMM, their sum, and attention over a paged cache; the experts on a CPU.

One stem a kernel: kernel and launcher here, its test in tests/model/kernels, its benchmark in model/bench. `reference.py` is
what all of them are held to. Triton is imported by these modules alone, and they only by who has chosen the `triton` tenant;
`experts_cpu`, the `cpu` tenant, does without it.
With TRITON_INTERPRET=1, set before Triton is imported, they run on a CPU: slowly, for tests.
"""
