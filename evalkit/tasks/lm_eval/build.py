"""A task of lm-eval's, made by lm-eval itself out of its configuration, with its rows from a source of ours."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.errors import DataError, EvalkitError, MissingData, in_words
from evalkit.tasks.lm_eval.checks import TARGET_FIELDS, require_choice, require_columns, require_written
from evalkit.tasks.lm_eval.code import permit_metrics
from evalkit.tasks.lm_eval.options import LmEvalOptions
from evalkit.tasks.lm_eval.tree import Leaf
from evalkit.tasks.lm_eval.yaml_files import FunctionRef
from evalkit.tasks.tables import DataSource, HubDataset

FEWSHOT_SEED = 1234  # lm-eval's --seed for shots, unless told otherwise
MULTIMODAL = "asks about images or sounds, which no engine here reads"


def build(leaf: Leaf, source: DataSource, options: LmEvalOptions) -> Any:
    """lm-eval's Task object, its documents loaded, its shots seeded as `lm_eval` does. Raises DataError and EvalkitError."""
    from lm_eval.api.task import ConfigurableTask

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of defaults that its own files leave to it
    permit_metrics(leaf, options.allow_task_code)
    try:
        config = _resolved(leaf.config)
    except Exception as error:  # a task's code may raise anything when it is imported
        raise EvalkitError(f"lm_eval:{leaf.name}: its code can't be loaded ({in_words(error)}); install what it needs") from None
    config["metadata"] = dict(config.get("metadata") or {}) | {"config_source": str(leaf.path or "inline")}
    kind = config.get("class", ConfigurableTask)
    num_fewshot = shots_of(leaf, options)
    made_of = _reading(kind, leaf, source, num_fewshot)
    seed_all()
    try:
        task = made_of(config=config)
    except EvalkitError:
        raise
    except Exception as error:  # jinja, a missing column, the task's own code
        raise DataError(f"lm_eval:{leaf.name}: its rows do not fit its configuration ({in_words(error)})") from None
    if getattr(task, "MULTIMODAL", False):
        raise EvalkitError(f"lm_eval:{leaf.name} {MULTIMODAL}")
    if "class" in config:
        task.config.task = leaf.name
    else:
        require_columns(task, leaf.name)
    if num_fewshot and (there := len(task.sampler.df)) < num_fewshot:
        raise DataError(
            f"lm_eval:{leaf.name}: {num_fewshot} shots are asked for, and its data has {there} rows for them; lower --num-fewshot"
        )
    task.set_config("num_fewshot", num_fewshot)
    task.set_fewshot_seed(FEWSHOT_SEED)
    return task


def seed_all() -> None:
    """lm-eval's own seeds, since a task's code may draw (GPQA shuffles its options), whatever was loaded before it."""
    import random

    import numpy as np

    random.seed(0)
    np.random.seed(1234)


def shots_of(leaf: Leaf, options: LmEvalOptions) -> int:
    """How many shots a task has. Raises EvalkitError where its file forbids those that are asked for, or states no number."""
    own = leaf.config.get("num_fewshot")
    if own is not None and (type(own) is not int or own < 0):
        raise EvalkitError(f"lm_eval:{leaf.name} has num_fewshot: {own!r:.40} in its file; write a whole number there, 0 or more")
    if options.num_fewshot is None:
        return own or 0
    if own == 0 and options.num_fewshot:
        raise EvalkitError(
            f"lm_eval:{leaf.name} has no shots by its own file (num_fewshot: 0), and lm-eval would keep to that; leave --num-fewshot out"
        )
    return options.num_fewshot


def _resolved(value: Any) -> Any:
    """The configuration with its functions imported."""
    from lm_eval.tasks._yaml_loader import _import_func_in_yml

    if isinstance(value, FunctionRef):
        return _import_func_in_yml(value.name, value.folder)
    if isinstance(value, Mapping):
        return {key: _resolved(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each) for each in value]
    return value


def _reading(kind: Any, leaf: Leaf, source: DataSource, num_fewshot: int) -> Any:
    """The class of a task, its rows read from `source`."""

    def download(self: Any, *args: Any, **kwargs: Any) -> None:
        config = self.config
        if callable(config.custom_dataset):
            kind.download(self, *args, **kwargs)
            return
        settings = {key: value for key, value in (config.dataset_kwargs or {}).items() if key != "trust_remote_code"}
        dataset = HubDataset(self.DATASET_PATH, self.DATASET_NAME, settings)
        self.dataset = _with_stand_ins(source.splits(dataset, _splits(self)), self, dataset, num_fewshot)

    def build_qa_turn(self: Any, *, c: Any = None, a: Any = None, **kwargs: Any) -> Any:
        if c and isinstance(a, int):  # a shot's answer; Python takes -1 for the last choice
            require_choice(a, c, f"lm_eval:{leaf.name}: a shot")
        return kind.build_qa_turn(self, c=c, a=a, **kwargs)

    own = {"download": download, "__module__": kind.__module__}
    if "class" not in leaf.config:
        own |= {"build_qa_turn": build_qa_turn, **{field: _of_a_column(kind, field, leaf.name) for field in TARGET_FIELDS}}
    return type(kind.__name__, (kind,), own)


def _of_a_column(kind: Any, field: str, name: str) -> Any:
    """A task's doc_to_text and the like, which refuses a null in the column that it is. A template's is refused where it is rendered."""

    def checked(self: Any, doc: Any, own: Any = None) -> Any:
        found = getattr(kind, field)(self, doc, own)
        column = own or getattr(self.config, field)
        theirs = field == "doc_to_target" and callable(self.config.process_results)  # which may know what a null means
        if isinstance(column, str) and column in self.features and not theirs:
            require_written(found, {**doc, column: found}, name)
        return found

    return checked


def _splits(task: Any) -> Sequence[str]:
    """The splits that a task reads, the one of its documents first."""
    config = task.config
    if config.test_split or config.validation_split:
        own = [config.test_split or config.validation_split, config.fewshot_config.split, config.training_split, config.validation_split]
    else:  # a class of its own names them in its code
        own = ["test" if task.has_test_docs() else "validation", "train", "validation", "test"]
    return list(dict.fromkeys(name for name in own if name))


def _with_stand_ins(found: Mapping[str, Any], task: Any, dataset: HubDataset, num_fewshot: int) -> Any:
    """The splits as a DatasetDict. One that is missing is empty where no shot is drawn: lm-eval asks for it all the same."""
    import datasets

    documents, *others = _splits(task)
    missing = [name for name in others if name not in found]
    if num_fewshot and (shots := _shots_split(task)) in missing:
        raise MissingData(
            f"lm_eval:{task.config.task}: {num_fewshot} shots are drawn from {dataset.folder}/{shots}.jsonl, which is missing"
        )
    return datasets.DatasetDict({**found, **{name: found[documents].select([]) for name in missing}})


def _shots_split(task: Any) -> str | None:
    """The split that shots are drawn from, by lm-eval's rule; None where the task's file has them."""
    config = task.config
    if config.fewshot_config.split or config.fewshot_config.samples is not None:
        return config.fewshot_config.split or None
    if task.has_training_docs():
        return config.training_split or "train"
    return (config.validation_split or "validation") if task.has_validation_docs() else config.test_split or "test"
