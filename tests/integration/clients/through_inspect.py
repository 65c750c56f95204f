"""The chats of compare.py by inspect_ai: plain, with several choices and with log-probabilities; and a multiple-choice question."""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["INSPECT_DISPLAY"] = "none"
from inspect_ai import Task
from inspect_ai import eval as run
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import choice, includes
from inspect_ai.solver import generate, multiple_choice

work = json.loads(Path(sys.argv[1]).read_text())
limit = work["chats"][0]["max_tokens"]
questions = [Sample(input=each["messages"][0]["content"], target="0") for each in work["chats"]]


def outputs(samples: list[Sample], solver, scorer, **settings):
    config = GenerateConfig(max_tokens=limit, **settings)
    model = get_model(f"openai-api/evalkit/{work['model']}", base_url=work["base_url"], api_key=work["key"], config=config, memoize=False)
    with tempfile.TemporaryDirectory() as folder:
        (log,) = run(Task(dataset=samples, solver=solver, scorer=scorer), model=model, log_dir=folder)
        assert log.status == "success", log.error
        return [sample.output for sample in sorted(log.samples, key=lambda sample: sample.id)]  # read from the folder


plain = outputs(questions, generate(), includes(), temperature=0)
several = outputs(questions[:2], generate(), includes(), temperature=1, top_p=0.9, top_k=20, num_choices=3, seed=1)
assert all(len(output.choices) == 3 for output in several)
scored = outputs(questions[:2], generate(), includes(), temperature=0, logprobs=True, top_logprobs=4)
for output, same in zip(scored, plain, strict=False):
    entries = output.choices[0].logprobs.content
    assert all(len(entry.top_logprobs) == 4 for entry in entries)
    assert output.completion == same.completion
letters = [Sample(input="Which of these is a colour?", choices=["dog", "red", "seven"], target="B")]
assert outputs(letters, multiple_choice(), choice(), temperature=0)[0].completion
Path(sys.argv[2]).write_text(json.dumps({"chats": [output.completion for output in plain]}))
