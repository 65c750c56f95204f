"""`lm_eval:NAME`: any task or group of the installed lm-eval, asked and scored as lm-eval does it, by evalkit's engines and statistics."""
