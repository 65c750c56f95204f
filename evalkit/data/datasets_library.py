"""Datasets that the `datasets` library reads, for the tasks of lm-eval: from the hub, from files that a task names, or from rows."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, in_words
from evalkit.tasks import HubDataset

FILE_FORMATS = frozenset({"json", "csv", "parquet", "text", "arrow"})  # what `datasets` reads without a repository


def dataset_of(rows: Iterable[tuple[str, Mapping[str, Any]]], name: str) -> Any:
    """Placed rows as a `datasets.Dataset`; a row without one of the columns has None in it. Raises DataError."""
    import datasets
    import pyarrow

    listed = [_finite(row, where) for where, row in rows]
    if not listed:
        raise DataError(f"{name} holds no rows")
    columns = dict.fromkeys(key for row in listed for key in row)
    try:
        return datasets.Dataset.from_list([{key: row.get(key) for key in columns} for row in listed])
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name}: its rows have no common columns ({in_words(error)}); give each column one type in all rows") from None


def _finite(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The row. Raises DataError for NaN and Infinity, which are no JSON and would be words in a prompt."""
    for key, value in row.items():
        for each in _numbers(value):
            if not math.isfinite(each):
                raise DataError(f"{where}: {key} holds {each}, which is no JSON number; write a number, or null")
    return row


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers(each)


def own_files(dataset: HubDataset) -> Mapping[str, Sequence[str]]:
    """The files that a task itself names, by split; {} where it names a dataset."""
    given = dataset.settings.get("data_files")
    if dataset.path not in FILE_FORMATS or not given:
        return {}
    by_split = given if isinstance(given, Mapping) else {"train": given}
    return {str(split): [files] if isinstance(files, str) else [*files] for split, files in by_split.items()}


def is_here(dataset: HubDataset) -> bool:
    """Is all that the task names on this machine: a folder, or files?"""
    files = own_files(dataset)
    return Path(dataset.path).is_dir() or (bool(files) and not any("://" in file for each in files.values() for file in each))


def loaded(dataset: HubDataset) -> Mapping[str, Any]:
    """What `datasets.load_dataset` makes of it. Raises DataError: the library raises whatever its readers and the network do."""
    import datasets

    datasets.disable_progress_bars()
    where = " ".join(filter(None, (dataset.path, dataset.name)))
    try:
        found: Mapping[str, Any] = datasets.load_dataset(dataset.path, dataset.name, **dataset.settings)
    except Exception as error:
        raise DataError(f"dataset {where} can't be had ({in_words(error)})") from None
    return found
