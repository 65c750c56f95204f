"""run.json and the samples beside it."""
