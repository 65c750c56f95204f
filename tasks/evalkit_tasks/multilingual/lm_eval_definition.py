"""One of lm-eval's task definitions on our documents: texts, requests and scores come from its own code, without its data or its index."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evalkit.tasks import DataError, Generate, Generated, Loglikelihood, Loglikelihoods, Request, Response, pip_install

Row = Mapping[str, Any]
INVALID = "[invalid]"  # what lm-eval's regex filter gives where nothing matches
_METRIC_NAMES = {"strict-match": "exact_match_strict", "flexible-extract": "exact_match_flexible"}


class Definition:
    """A definition below lm_eval/tasks. `row` is any row of its data, in the layout of its hub dataset.

    Raises DataError where lm-eval is not installed.
    """

    def __init__(self, yaml: str, row: Row):
        try:
            import datasets
            import lm_eval.tasks
            from lm_eval.api.task import ConfigurableTask
            from lm_eval.tasks._yaml_loader import load_yaml
        except ImportError:
            raise DataError(f"the prompts of {yaml} are lm-eval's; run {pip_install('multilingual')}") from None
        one = datasets.Dataset.from_list([dict(row)])
        config = dict(load_yaml(Path(lm_eval.tasks.__file__).parent / yaml, resolve_func=True))
        self._process_docs = config.pop("process_docs", None)
        config |= {"custom_dataset": lambda **_: {"test": one, "shots": one}, "dataset_kwargs": None, "training_split": None}
        config |= {"validation_split": None, "test_split": "test", "fewshot_split": "shots"}
        with _quiet():
            self.task = ConfigurableTask(config=config)

    def processed(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The rows as the definition's own `process_docs` leaves them; it may drop some."""
        if self._process_docs is None or not rows:
            return [dict(row) for row in rows]
        import datasets

        with _quiet():
            return [dict(row) for row in self._process_docs(datasets.Dataset.from_list([dict(row) for row in rows]))]

    def shots(self, rows: Sequence[Row]) -> str:
        """The text of these worked examples, in this order, as a prompt begins with it."""
        if not rows:
            return ""
        before, self.task.sampler = self.task.sampler, _Given(rows)
        try:
            whole = self.task.fewshot_context(dict(rows[0]), num_fewshot=len(rows))
        finally:
            self.task.sampler = before
        alone = self.task.fewshot_context(dict(rows[0]), num_fewshot=0)
        # several contexts where the options stand in the context: all begin with the same shots
        whole, alone = (whole[0], alone[0]) if isinstance(whole, list) else (whole, alone)
        return str(whole).removesuffix(alone)

    @property
    def delimiter(self) -> str:
        """What stands between a question and its answer."""
        return str(self.task.config.target_delimiter)

    def turns(self, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """These worked examples, in this order, as questions and answers."""
        found = []
        for row in map(dict, rows):
            choices = self.task.doc_to_choice(row) if self.task.config.doc_to_choice else None
            asked, answer = self.task.build_qa_turn(q=self.task.doc_to_text(row), c=choices, a=self.task.doc_to_target(row))
            found.append((asked.content, answer.content))
        return found

    def requests(self, row: Row, prefix: str, chat: bool = False) -> list[Request]:
        """Its requests for one document after the shots' text: a log-likelihood request per context, or one generation. `chat`: answers
        begin a turn of their own.
        """
        context = self.task.fewshot_context(dict(row), num_fewshot=0)
        contexts = [prefix + c for c in context] if isinstance(context, list) else prefix + context
        instances = self.task.construct_requests(dict(row), contexts, apply_chat_template=chat)
        if isinstance(instances, list):
            found: dict[str, list[str]] = {}
            for instance in instances:
                found.setdefault(instance.arguments[0], []).append(instance.arguments[1])
            return [Loglikelihood(text, tuple(continuations)) for text, continuations in found.items()]
        text, settings = instances.arguments
        return [Generate(text, tuple(settings["until"]), settings.get("max_gen_toks", 0))]

    def scores(self, row: Row, responses: Sequence[Response]) -> tuple[dict[str, float], str]:
        """Its metrics of one document, and the answer it extracted (`INVALID` for none)."""
        likelihoods = [r for r in responses if isinstance(r, Loglikelihoods)]
        if likelihoods:
            pairs = [pair for r in likelihoods for pair in zip(r.logprobs, r.is_greedy, strict=True)]
            scores = self.task.process_results(dict(row), pairs)
            best = max(range(len(pairs)), key=lambda i: (pairs[i][0], -i))
            return {name: float(value) for name, value in scores.items()}, self.task.doc_to_choice(dict(row))[best]
        (text,) = [r.text for r in responses if isinstance(r, Generated)]
        filtered = self._filtered(row, text)
        metrics = {
            _METRIC_NAMES.get(name, name): float(self.task.process_results(dict(row), [answer])["exact_match"])
            for name, answer in filtered.items()
        }
        return metrics, filtered.get("flexible-extract", next(iter(filtered.values())))

    def options(self, row: Row) -> list[str]:
        """What may be chosen, in order."""
        return [str(option) for option in self.task.doc_to_choice(dict(row))]

    def target(self, row: Row) -> str:
        """The right answer, as text."""
        if self.task.multiple_input:
            return str(self.task.doc_to_choice(dict(row))[self.task.doc_to_text(dict(row))])
        target = self.task.doc_to_target(dict(row))
        return str(self.task.doc_to_choice(dict(row))[target] if isinstance(target, int) and self.task.config.doc_to_choice else target)

    def _filtered(self, row: Row, text: str) -> dict[str, str]:
        from lm_eval.api.instance import Instance

        instance = Instance(request_type="generate_until", doc=dict(row), arguments=("", {}), idx=0)
        instance.resps = [text]
        for each in self.task._filters:
            each.apply([instance])
        return {name: str(answer) for name, answer in instance.filtered_resps.items()}


class _Given:
    """lm-eval's sampler, for shots that are chosen already."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = [dict(row) for row in rows]

    def sample(self, n: int, eval_doc: object = None) -> list[dict[str, Any]]:
        return self.rows[:n]


_LOADED: dict[str, Definition] = {}


def definition(yaml: str, row: Row) -> Definition:
    """The definition, made once per process."""
    if yaml not in _LOADED:
        _LOADED[yaml] = Definition(yaml, row)
    return _LOADED[yaml]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's warnings that the data is not its own, and without the progress bars of datasets."""
    import datasets

    logger, bars = logging.getLogger("lm_eval"), datasets.utils.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
