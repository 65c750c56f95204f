"""Every Eval Ever's files read: evalkit's own exports whole, other programs' for the figures and samples that they hold."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalkit.codec import parse_json
from evalkit.errors import EvalkitError
from evalkit.exchange.every_eval_ever_write import WHOLE, result_id
from evalkit.exchange.recorded import OURS, Recorded, foreign_entry, foreign_row, foreign_run, from_kept, merged, row_from_kept
from evalkit.exchange.stated import bounds_of, stated
from evalkit.files import read_text
from evalkit.hashing import sha256_json
from evalkit.record.read import read_rows
from evalkit.record.sample import SampleRow
from evalkit.record.schema import DataInfo, Run

READ = ("0.2.", "0.3.")  # versions whose keys are these
KEYS = frozenset({"schema_version", "evaluation_id", "evaluation_results", "model_info"})
FIX = "validate it with `every_eval_ever validate`"


def read(place: Path) -> Recorded:
    """A file, or a folder with data/: the results of one model. Raises EvalkitError."""
    files = [place] if place.is_file() else sorted(place.glob("data/*/*/*/*.json"))
    found = [part for file in files for part in _read_file(file)]
    ours = {is_ours for *_, is_ours in found}
    if len(ours) > 1:
        raise EvalkitError(f"{place} holds results of evalkit and of other programs; give those of one")
    source = OURS if ours == {True} else "every-eval-ever"
    return merged(
        place, source, (part[:3] for part in found), "" if any(rows for _, _, rows, _ in found) else "no detailed_evaluation_results"
    )


def _read_file(file: Path) -> Iterator[tuple[str, Run, Sequence[SampleRow], bool]]:
    """(task, run of it alone, samples, is it evalkit's?) of each task of a file."""
    try:
        log = parse_json(read_text(file))
        if not str(log["schema_version"]).startswith(READ):
            raise EvalkitError(
                f"{file}: schema_version {log['schema_version']!r:.40}; versions {', '.join(f'{v}x' for v in READ)} are read"
            )
        instances = list(_read_instances(file, log)) if log.get("detailed_evaluation_results") else []
        kept = (log["source_metadata"].get("additional_details") or {}).get(OURS)
        if kept is not None:
            yield _ours(file, log, kept, instances)
        else:
            yield from _foreign(file, log, instances)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise EvalkitError(f"{file} is not what Every Eval Ever's schema says ({error!r:.100}); {FIX}") from None


@dataclass(frozen=True, slots=True)
class _Instance:
    where: str
    raw: Mapping[str, Any]

    @property
    def score(self) -> Any:
        return self.raw["evaluation"]["score"]


def _read_instances(file: Path, log: Mapping[str, Any]) -> Iterator[_Instance]:
    """The samples beside a file. Raises EvalkitError where they are not the ones that it was written with."""
    about = log["detailed_evaluation_results"]
    samples = file.with_name(Path(about["file_path"]).name)
    if not samples.is_file():
        raise EvalkitError(f"{file}: its samples {samples.name} are not beside it; put them there")
    algorithm, checksum = about.get("hash_algorithm"), about.get("checksum")
    if checksum and algorithm in ("sha256", "md5") and hashlib.new(algorithm, samples.read_bytes()).hexdigest() != checksum:
        raise EvalkitError(f"{samples} is not the file whose checksum {file.name} states; take both from one export")
    rows = list(read_rows(samples))
    if about.get("total_rows") not in (None, len(rows)):
        raise EvalkitError(f"{samples} holds {len(rows):,} rows, and {file.name} says {about['total_rows']}; take both from one export")
    for number, row in enumerate(rows, start=1):
        where = f"{samples} line {number}"
        if row["evaluation_id"] != log["evaluation_id"]:
            raise EvalkitError(f"{where}: evaluation_id {row['evaluation_id']!r:.60} is not that of {file.name}; take both from one export")
        if row["model_id"] != (model := log["model_info"]["id"]):
            raise EvalkitError(
                f"{where}: model_id {row['model_id']!r:.60} is not {model!r:.60}, as {file.name} says; take both from one export"
            )
        yield _Instance(where, row)


def _ours(file: Path, log: Mapping[str, Any], kept: str, instances: Sequence[_Instance]) -> tuple[str, Run, Sequence[SampleRow], bool]:
    raw = parse_json(kept)
    results = {result["evaluation_result_id"]: result["score_details"]["score"] for result in log["evaluation_results"]}
    (name,) = raw["tasks"]
    figures = {metric: results[result_id(name, WHOLE, metric)] for metric in raw["tasks"][name]["metrics"]}
    task, run = from_kept(raw, str(file), figures)
    rows: list[SampleRow] = []
    begun: tuple[_Instance, Any] | None = None
    scores: dict[str, float] = {}
    for instance in (*instances, None):
        if instance is None or OURS in (instance.raw.get("metadata") or {}):
            if begun is not None:
                rows.append(row_from_kept(begun[1], begun[0].where, scores, begun[0].raw["input"]["reference"][0]))
            if instance is not None:
                begun, scores = (instance, parse_json(instance.raw["metadata"][OURS])), {}
        if instance is not None:
            scores[instance.raw["evaluation_result_id"].removeprefix(result_id(task, WHOLE, ""))] = instance.score
    if len(rows) not in (0, run.tasks[task].n):
        raise EvalkitError(f"{file}: {len(rows):,} samples of {task}, and its figures are of {run.tasks[task].n:,}; export the run again")
    return task, run, rows, True


def _foreign(file: Path, log: Mapping[str, Any], instances: Sequence[_Instance]) -> Iterator[tuple[str, Run, Sequence[SampleRow], bool]]:
    """A task for each result: other programs' names of parts and metrics do not tell which belong together."""
    model, library = log["model_info"], log["eval_library"]
    engine = f"{library['name']} {library['version']}"
    named = [result["evaluation_name"] for result in log["evaluation_results"]]
    if odd := [name for name in named if not isinstance(name, str)]:
        raise TypeError(f"evaluation_name {odd[0]!r:.40}")
    for result in log["evaluation_results"]:
        name, config, details = result["evaluation_name"], result["metric_config"], result["score_details"]
        metric = str(config.get("metric_id") or config.get("metric_name") or "score")
        task = name if named.count(name) == 1 else f"{name}:{metric}"
        mine = [each for each in instances if _is_of(each.raw, result)]
        bounds = _bounds(config, metric)
        _require_one_thing(result, mine, bounds, name)
        rows = [_row(each, metric, bounds) for each in mine]
        uncertainty = details.get("uncertainty") or {}
        error = (uncertainty.get("standard_error") or {}).get("value")
        interval = uncertainty.get("confidence_interval") or {}
        ci95 = (interval["lower"], interval["upper"]) if interval.get("confidence_level") == 0.95 else None
        where = f"{file}: {name}: score"
        scores: list[Any] = [row.metrics[metric] for row in rows]
        if doubled := [doc for doc, count in Counter(row.doc_id for row in rows).items() if count > 1]:
            raise EvalkitError(f"{file}: {name}: sample {doubled[0]!r:.60} is there twice; {FIX}")
        for key, bound, beyond in (("min_score", bounds[0], -1), ("max_score", bounds[1], 1)):
            if beyond * details["score"] > beyond * bound:
                what = f"{'above' if beyond > 0 else 'below'} {key} {bound:g}"
                raise EvalkitError(f"{where} {details['score']!r:.40} is {what}; {FIX}")
        figure = stated(details["score"], scores, error, uncertainty.get("num_samples"), where, ci95, bounds)
        is_share = config.get("metric_unit") == "proportion" or config.get("max_score") == 1
        entry = foreign_entry(
            f"{library['name']}'s {name}",
            [config, result.get("generation_config")],
            {metric: figure},
            len(rows) or figure.n,
            DataInfo(source="every-eval-ever", sha256=sha256_json([row.doc_hash for row in rows])),
            lower_is_better=(metric,) if config["lower_is_better"] else (),
            no_shares=() if is_share else (metric,),
        )
        yield task, foreign_run(file.stem, model["id"], engine, log.get("evaluation_timestamp"), {task: entry}), rows, False


def _bounds(config: Mapping[str, Any], metric: str) -> tuple[float, float]:
    """What scores lie in, by the metric's configuration ("Infinity" is a text there) or else by its name."""
    low, high = (0.0, 1.0) if config.get("metric_unit") == "proportion" else bounds_of(metric)
    least, most = config.get("min_score"), config.get("max_score")
    return low if least is None else float(least), high if most is None else float(most)


def _require_one_thing(result: Mapping[str, Any], mine: Sequence[_Instance], bounds: tuple[float, float], name: str) -> None:
    """Raises EvalkitError for a sample that belongs to another result, and for one that its file calls right and scores as wrong."""
    # All of them may have names of their own: those of a benchmark's subjects. But some are not another benchmark's.
    names = [each.raw["evaluation_name"] for each in mine]
    is_share = bounds == (0, 1) and not result["metric_config"]["lower_is_better"]
    for each, its in zip(mine, names, strict=True):
        if its != name and name in names:
            raise EvalkitError(f"{each.where}: evaluation_name {its!r:.60} is not {name!r:.60}; take both from one export")
        right = each.raw["evaluation"].get("is_correct")
        if is_share and isinstance(right, bool) and each.score in (0, 1) and right != bool(each.score):
            raise EvalkitError(f"{each.where}: is_correct is {str(right).lower()}, and the score {each.score!r:.40}; {FIX}")


def _is_of(instance: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    if (joined := instance.get("evaluation_result_id")) is not None and result.get("evaluation_result_id") is not None:
        return bool(joined == result["evaluation_result_id"])
    return bool(instance["evaluation_name"] == result["evaluation_name"])


def _row(instance: _Instance, metric: str, bounds: tuple[float, float]) -> SampleRow:
    raw, asked = instance.raw, instance.raw["input"]
    if raw["interaction_type"] == "single_turn":
        texts, conversation = list(raw["output"]["raw"]), asked.get("formatted") or asked["raw"]
    else:
        messages = raw["messages"]
        texts = [message["content"] or "" for message in messages if message["role"] == "assistant"]
        conversation = [(message["role"], message["content"] or "") for message in messages if message["role"] != "assistant"]
    answers = [each["extracted_value"] for each in raw["answer_attribution"] if each["is_terminal"]]
    row = foreign_row(
        raw["sample_id"],
        {"input": asked["raw"], **({"choices": asked["choices"]} if asked.get("choices") else {})},
        conversation,
        "\n".join(asked["reference"]),
        {metric: instance.score},
        texts,
        answers[-1] if answers else "",
        instance.where,
        bounds=bounds,
    )
    return replace(row, group=str((raw.get("metadata") or {}).get("subject", "")))
