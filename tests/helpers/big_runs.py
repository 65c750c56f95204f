"""Runs over the whole of MMLU and GSM8K without a model: real documents and prompts, each task's own scoring, made-up answers."""

import random
from dataclasses import replace
from pathlib import Path

from evalkit.data.sources import open_source
from evalkit.record.sample import Sample
from evalkit.record.schema import ModelInfo
from evalkit.record.write import begin, task_entry, write_run
from evalkit.tasks import Doc, Generated, Loglikelihoods, Task
from evalkit.tasks.registry import resolve_all


def big_run(folder: Path, data: Path, skill: float) -> Path:
    """15,361 samples under the default protocols; the same for one `skill` (the share of right answers, roughly)."""
    samples: dict[str, list[Sample]] = {}
    model = ModelInfo(spec=f"made up, skill {skill}", fingerprint=f"sha256:{folder.name}", engine="none")
    run = begin(folder.name, model, None, 0, None)
    tasks = {}
    for name, task in resolve_all(("mmlu", "gsm8k")).items():
        source = open_source(str(data))
        docs = task.load(source)
        samples[name] = [_sample(task, doc, random.Random(f"{skill} {doc.id}"), skill) for doc in docs]
        tasks[name] = task_entry(task, samples[name], len(docs), source.describe(type(task)))
    write_run(folder, replace(run, status="complete", started="2026-01-01T00:00:00+00:00", tasks=tasks), samples)
    return folder


def _sample(task: Task, doc: Doc, rng: random.Random, skill: float) -> Sample:
    response: Loglikelihoods | Generated
    if task.name == "mmlu":
        logprobs = [-rng.uniform(1.5, 9) for _ in "ABCD"]
        if rng.random() < skill:
            logprobs["ABCD".index(doc.fields["answer"])] = -rng.uniform(0.1, 1.4)
        response = Loglikelihoods(tuple(logprobs), tuple(p > -0.7 for p in logprobs))
    else:  # the reference solution, its last number changed where the answer is to be wrong, cut off now and then
        solution, _, number = doc.fields["answer"].partition("\n#### ")
        said = number if rng.random() < skill else str(rng.randrange(1000))
        text = f"{solution}\nThe answer is {said}" if rng.random() > 0.05 else "I can't tell."
        response = Generated(text, "stop", len(text) // 4)
    return Sample(doc, task.requests(doc), [response], task.score(doc, [response]))
