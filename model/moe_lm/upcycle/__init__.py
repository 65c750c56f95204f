"""Dense models made mixtures of experts."""
