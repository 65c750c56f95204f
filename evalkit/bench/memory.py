"""The most memory that a piece of work held: of this process on Linux, or of a GPU."""

from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak(device: str | None) -> bool:
    """From here on the peak is counted. False where this system does not count it; `device` None: a server's, or not known."""
    if device is None:
        return False
    if device.partition(":")[0] == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        CLEAR.write_text("5")  # proc(5): resets the process's peak resident set size
    except OSError:
        return False
    return True


def peak_memory(device: str | None) -> int:
    """Bytes since `forget_peak`: resident ones of this process, or allocated ones of the GPU."""
    if device is not None and device.partition(":")[0] == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
