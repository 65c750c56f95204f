"""The CPU's kernels in C++: csrc/, built with the package (build.py), verified and loaded (library.py), called (launch.py, moe.py)."""
