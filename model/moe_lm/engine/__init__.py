"""Batches, pages, scoring and generation."""
