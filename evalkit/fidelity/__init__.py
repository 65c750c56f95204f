"""`evalkit fidelity`: what a quantised or served copy of a model costs, on the tasks' own prompts and answers."""
