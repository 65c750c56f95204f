"""MT-Bench: the task, what its judge is asked, and how ratings are read. FastChat word for word, so that its judgments and ours compare."""
