"""Comparing two runs, and the gate."""
