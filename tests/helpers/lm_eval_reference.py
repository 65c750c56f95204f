"""The same answers from the same data folder for lm-eval and for evalkit: what lm-eval's own `simple_evaluate` makes of them.

The model is a hash of the text that it is asked: each side has the same one, and any other prompt has other answers.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from evalkit.lm.base import LM
from evalkit.tasks import Generate, Generated, Loglikelihood, Loglikelihoods, Request
from evalkit.tasks.lm_eval import figures

SAID = (
    "The answer is 7.",
    "Heat.",
    " We add. The answer is (B).",
    "So the answer is True.",
    "2+3=5\n#### 5",
    "Mars, I think",
    "Es ist Eis und das ist gut so.",
    "La respuesta es 12",
    "We get $\\boxed{3}$.",
    "",
)


def answered_by(patch: pytest.MonkeyPatch, make: Callable[[], LM]) -> None:
    """Have runs ask what `make` gives, whatever model they name."""
    patch.setattr("evalkit.runner.run.open_lm", lambda spec: make())
    patch.setattr("evalkit.runner.run.require_model", lambda spec: None)


def require_one_line(said: str, *words: str) -> None:
    """A refusal: one line, with these words in it."""
    assert said.count("\n") == 1, said
    assert all(word in said for word in words), said


def draw(*parts: Any) -> float:
    """A number from 0 to 1."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:12], 16) / 16**12


def rendered(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
    """ChatML, as lm-eval asks its models for it."""
    turns = [f"<|im_start|>{turn['role']}\n{turn['content']}" for turn in messages]
    return "<|im_end|>\n".join(turns) + ("<|im_end|>\n<|im_start|>assistant\n" if add_generation_prompt else "")


def shown(request: Request) -> str:
    """The prompt of a request of ours as the model gets it."""
    if not request.messages:
        return request.context
    return rendered([{"role": role, "content": content} for role, content in request.messages]) + request.context


class Oracle:
    """The answers; the same prompt again, for another of its repeats, has another one."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def likelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        return -8 * draw(context, continuation) - 0.1, draw("greedy", context, continuation) > 0.5

    def text(self, context: str) -> str:
        self.asked[context] += 1
        return SAID[int(len(SAID) * draw(context, self.asked[context] // 3))]

    def whole(self, text: str) -> float:
        return -len(text) * (0.5 + draw(text))


class Ours(LM):
    """evalkit's side. Greedy repeats are one request, which is asked once."""

    fingerprint = "sha256:oracle"

    def __init__(self) -> None:
        self.oracle = Oracle()

    def loglikelihood(self, requests: Sequence[Loglikelihood]) -> Iterator[tuple[int, Loglikelihoods]]:
        for i, request in enumerate(requests):
            found = [self.oracle.likelihood(shown(request), continuation) for continuation in request.continuations]
            yield i, Loglikelihoods(tuple(p for p, _ in found), tuple(g for _, g in found))

    def loglikelihood_rolling(self, texts: Sequence[str]) -> Iterator[tuple[int, float]]:
        yield from ((i, self.oracle.whole(text)) for i, text in enumerate(texts))

    def generate(self, requests: Sequence[Generate]) -> Iterator[tuple[int, Generated]]:
        yield from ((i, Generated(self.oracle.text(shown(request)), "stop", 3)) for i, request in enumerate(requests))

    def describe(self) -> dict[str, Any]:
        return {}


def load_from(folder: Path, cache: Path) -> Any:
    """A `datasets.load_dataset` that reads the data folder, as lm-eval would read the hub."""
    import datasets

    def load_dataset(path: str, name: str | None = None, data_files: Any = None, **settings: Any) -> Any:
        if path == "json":
            files = {split: folder / "lm_eval" / file.removeprefix("hf://datasets/") for split, file in data_files.items()}
        else:
            files = {file.stem: file for file in (folder / "lm_eval" / path / (name or "default")).glob("*.jsonl")}
        return datasets.DatasetDict({split: datasets.Dataset.from_json(str(file), cache_dir=str(cache)) for split, file in files.items()})

    return load_dataset


def simple_evaluate(tasks: Sequence[str], folders: Sequence[Path], **settings: Any) -> Mapping[str, Any]:
    """What lm-eval itself gives for the oracle's answers. `folders`: those of the tasks' files, so that not all are indexed."""
    from lm_eval import evaluator
    from lm_eval.api import model
    from lm_eval.tasks import TaskManager

    class Theirs(model.LM):
        tokenizer_name = "oracle"

        def __init__(self) -> None:
            super().__init__()
            self.oracle = Oracle()

        def loglikelihood(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            return [self.oracle.likelihood(*request.args) for request in requests]

        def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
            return [self.oracle.whole(*request.args) for request in requests]

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            return [self.oracle.text(request.args[0]) for request in requests]

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            return rendered(chat_history, add_generation_prompt)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluator, "add_env_info", lambda results: None)  # asks pip and the compilers for a second, for nothing here
        found: Mapping[str, Any] = evaluator.simple_evaluate(
            Theirs(),
            tasks=list(tasks),
            task_manager=TaskManager(include_defaults=False, include_path=[str(folder) for folder in folders]),
            bootstrap_iters=figures.RESAMPLES,
            **settings,
        )
    return found


def pairs(requests: Sequence[Request]) -> list[tuple[Any, ...]]:
    """Our requests in lm-eval's form: (context, continuation), (context, settings) or (text,), repeats once."""
    found: list[tuple[Any, ...]] = []
    for request in requests:
        if isinstance(request, Generate):
            pair = (shown(request), list(request.until), request.max_new_tokens, request.temperature)
            if not found or found[-1] != pair:
                found.append(pair)
        elif request.rolling:
            found.append(request.continuations)
        else:
            found += [(shown(request), continuation) for continuation in request.continuations]
    return found


def their_pairs(arguments: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """lm-eval's own arguments of one document."""
    found: list[tuple[Any, ...]] = []
    for each in arguments:
        if len(each) == 2 and isinstance(each[1], dict):
            settings = each[1]
            until = settings.get("until", [])
            length = next((settings[key] for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if key in settings), 256)
            stops = [until] if isinstance(until, str) else until
            sampled = settings.get("do_sample", settings.get("temperature", 0) > 0)
            found.append((each[0], [stop for stop in stops if stop], length, float(settings.get("temperature", 0.0)) if sampled else 0.0))
        else:
            found.append(tuple(each))
    return found
