"""`evalkit judge`: a language model behind an OpenAI-compatible server rates the answers of any JudgedTask.

A run's samples (answered.py) -> asks -> judgments: stored already? -> client -> judgments -> score, pair -> result: run.json and samples

What a judge is asked, how its texts are read and the scale are the task's own. fastchat.py reads and writes the files of FastChat, for
tasks that name it.
"""
