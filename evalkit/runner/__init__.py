"""The run: requests, journal, scores."""
