"""Two runs: compare and gate."""
