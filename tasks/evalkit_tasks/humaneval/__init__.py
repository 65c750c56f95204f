"""HumanEval: the task, what of an answer is run under each protocol, and EvalPlus's tests and rules."""
