"""Every Eval Ever 0.3.0 (arXiv 2606.14516): data/COLLECTION/DEVELOPER/MODEL/UUID.json, figures, and UUID_samples.jsonl beside it.

Schemas: eval.schema.json and instance_level_eval.schema.json of the package every-eval-ever. A file a task; a result for each metric of
the task, its categories and subjects; an instance for each document and metric that is a number. What has no key there is JSON in
`additional_details` and `metadata`, under "evalkit".
"""

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from evalkit import __version__
from evalkit.codec import parse_json
from evalkit.errors import EvalkitError
from evalkit.exchange.hub import BENCHMARKS
from evalkit.exchange.recorded import (
    OURS,
    Recorded,
    Written,
    foreign_entry,
    foreign_row,
    foreign_run,
    from_kept,
    kept_row,
    kept_task,
    merged,
    numbers_of,
    row_from_kept,
    stated,
)
from evalkit.files import read_text, write_output
from evalkit.hashing import sha256_json
from evalkit.record.read import read_rows
from evalkit.record.sample import SampleRow
from evalkit.record.schema import DataInfo, JudgeEntry, ModelInfo, Run, TaskEntry, task_of
from evalkit.stats.estimate import Estimate
from evalkit.tasks import Generate, Generated, JudgedTask, Loglikelihood, Loglikelihoods, last_asked
from evalkit.tasks.registry import task_classes

VERSION = "0.3.0"
READ = ("0.2.", "0.3.")  # versions whose keys are these
KEYS = frozenset({"schema_version", "evaluation_id", "evaluation_results", "model_info"})
FIX = "validate it with `every_eval_ever validate`"
WHOLE = "all"  # the part of a result that is of the whole task


# --- out --------------------------------------------------------------------------------------------------------------


def write(recorded: Recorded, out: Path, options: Mapping[str, str]) -> Written:
    """A file for each task, with its samples where the run has some. The same run gives the same bytes."""
    written: list[Path] = []
    without: list[str] = []
    for task, entry in recorded.run.tasks.items():
        model_id = _model_id(recorded.run.model)
        folder = f"data/{_slug(task)}/{_slug(model_id.partition('/')[0])}/{_slug(model_id.partition('/')[2])}"
        digest = hashlib.sha256(f"{recorded.run.model.fingerprint} {recorded.run.started} {task} {entry.protocol_sha256}".encode()).digest()
        name = str(uuid.UUID(bytes=digest[:16], version=4))
        log = _log(recorded.run, task, entry, model_id)
        rows = recorded.samples.get(task, ())
        if rows and not all(map(numbers_of, rows)):
            without.append(task)
        elif rows:
            lines = [json.dumps(instance, allow_nan=False) for row in rows for instance in _instances(log, task, row)]
            content = "".join(f"{line}\n" for line in lines).encode("ascii")  # for readers that split lines at U+2028
            write_output(out / folder / f"{name}_samples.jsonl", content)
            written.append(out / folder / f"{name}_samples.jsonl")
            log["detailed_evaluation_results"] = {
                "format": "jsonl",
                "file_path": f"{folder}/{name}_samples.jsonl",
                "hash_algorithm": "sha256",
                "checksum": hashlib.sha256(content).hexdigest(),
                "total_rows": len(lines),
            }
        _add_generation(log, recorded.run, rows)
        write_output(out / folder / f"{name}.json", json.dumps(log, indent=2, allow_nan=False) + "\n")
        written.append(out / folder / f"{name}.json")
    return Written(written, f"{', '.join(without)}: documents without a score of their own (BLEU), so no samples" if without else "")


def _slug(name: str) -> str:
    """A name as a folder's."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name).strip(".") or "unnamed"


def _model_id(model: ModelInfo) -> str:
    """A hub id as it is, or "local/NAME" of anything else."""
    org, slash, name = model.spec.partition("@")[0].partition("/")
    if slash and org and name and "/" not in name and not model.spec.startswith((".", "/")) and not name.endswith(".gguf"):
        return f"{org}/{name}"
    return f"local/{Path(model.spec).name or 'model'}"


def _log(run: Run, task: str, entry: TaskEntry, model_id: str) -> dict[str, Any]:
    epoch = str(int(datetime.fromisoformat(run.started).timestamp())) if run.started != "unknown" else "0"
    parts = {WHOLE: entry.metrics, **entry.groups, **entry.subjects}
    return {
        "schema_version": VERSION,
        "evaluation_id": f"{task}/{model_id}/{epoch}",
        "evaluation_timestamp": run.started,
        "retrieved_timestamp": epoch,
        "source_metadata": {
            "source_name": "evalkit",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "other",
            "additional_details": {OURS: json.dumps(kept_task(run, task))},
        },
        "eval_library": {"name": run.model.engine if run.model.engine.startswith("lm-eval") else "evalkit", "version": __version__},
        "model_info": _model_info(run.model, model_id),
        "evaluation_results": [
            _result(run, task, entry, part, metric, estimate) for part, metrics in parts.items() for metric, estimate in metrics.items()
        ],
    }


def _model_info(model: ModelInfo, model_id: str) -> dict[str, Any]:
    details = {
        "deployment_type": "externally_managed" if model.server else "self_deployed",
        "model_availability": "unknown",
        "fingerprint": model.fingerprint,
        **({"dtype": model.dtype} if model.dtype else {}),
        **({"device": model.device} if model.device else {}),
    }
    return {"name": model.spec, "id": model_id, "inference_engine": {"name": model.engine}, "additional_details": details}


def _result_id(task: str, part: str, metric: str) -> str:
    return f"{task}/{part}/{metric}"


def _result(run: Run, task: str, entry: TaskEntry, part: str, metric: str, estimate: Estimate) -> dict[str, Any]:
    benchmark = BENCHMARKS.get(task)
    data = {"source": entry.data.source, "sha256": entry.data.sha256, **({"revision": entry.data.revision} if entry.data.revision else {})}
    from_hub = entry.data.source == "hub" and benchmark is not None
    source = (
        {"source_type": "hf_dataset", "hf_repo": benchmark[0], "samples_number": entry.n_total}
        if from_hub and benchmark
        else {"source_type": "other"}
    )
    low, high = estimate.ci95
    least, most = (0, 1) if entry.is_share(metric) else _scale(task)
    return {
        "evaluation_result_id": _result_id(task, part, metric),
        "evaluation_name": task if part == WHOLE else f"{task}/{part}",
        "source_data": {"dataset_name": task, **source, "additional_details": data},
        "metric_config": {
            "metric_id": metric,
            "metric_name": metric,
            "metric_unit": "proportion" if entry.is_share(metric) else "points",
            "lower_is_better": metric in entry.lower_is_better,
            "score_type": "continuous",
            "min_score": least,
            "max_score": most,
            **({"llm_scoring": _judge(entry.judge)} if entry.judge else {}),
            "additional_details": {"protocol": f"{task}@{entry.protocol}", "averaging": entry.averaging},
        },
        "score_details": {
            "score": estimate.value,
            "uncertainty": {
                "standard_error": {"value": estimate.stderr, "method": "analytic"},
                "confidence_interval": {"lower": low, "upper": high, "confidence_level": 0.95},
                "num_samples": estimate.n,
            },
        },
    }


def _scale(task: str) -> tuple[float | str, float | str]:
    """The least and the greatest score that a metric which is no share can have, as the schema writes them."""
    judged = task_classes().get(task_of(task))
    return judged.scale if judged is not None and issubclass(judged, JudgedTask) else ("-Infinity", "Infinity")


def _judge(judge: JudgeEntry) -> dict[str, Any]:
    details = {"deployment_type": "unknown", "model_availability": "unknown"}
    info = {"name": judge.model, "id": judge.model, "additional_details": details}
    temperature = {} if judge.temperature is None else {"temperature": judge.temperature}
    return {"judges": [{"model_info": info, **temperature}], "input_prompt": f"sha256:{judge.prompts_sha256 or 'unknown'}"}


def _add_generation(log: dict[str, Any], run: Run, rows: Sequence[SampleRow]) -> None:
    """The settings that all requests of a task share."""
    asked = {(request.temperature, request.max_new_tokens) for row in rows for request in row.requests if isinstance(request, Generate)}
    settings: dict[str, Any] = {"execution_command": run.command}
    if len(asked) == 1:
        ((temperature, max_new_tokens),) = asked
        settings |= {"temperature": temperature, "max_tokens": max_new_tokens} if max_new_tokens else {}  # 0: not known
    for result in log["evaluation_results"]:
        result["generation_config"] = {"generation_args": settings}


def _instances(log: Mapping[str, Any], task: str, row: SampleRow) -> Iterator[dict[str, Any]]:
    """One for each metric that is a number of this document; the first holds the whole sample."""
    turns = [request for request in row.requests if isinstance(request, Generate) and request.messages]
    is_conversation = len(turns) > 1 and len(turns) == len(row.responses)
    asked = last_asked(row.requests[0]) if row.requests else ""
    texts = _texts(row)
    shared: dict[str, Any] = {
        "schema_version": VERSION,
        "evaluation_id": log["evaluation_id"],
        "model_id": log["model_info"]["id"],
        "evaluation_name": task,
        "sample_id": row.doc_id,
        "sample_hash": sha256_json([asked, [row.target]]),
        "interaction_type": "multi_turn" if is_conversation else "single_turn",
        "input": {"raw": asked, "reference": [row.target], **_choices(row)},
        "output": None if is_conversation else {"raw": texts},
        "messages": _messages(turns, texts) if is_conversation else None,
        "answer_attribution": [
            {
                "turn_idx": len(turns[-1].messages) if is_conversation else 0,
                "source": "messages[turn_idx].content" if is_conversation else "output.raw",
                "extracted_value": row.extracted,
                "extraction_method": "custom",
                "is_terminal": True,
            }
        ],
    }
    kept = {OURS: json.dumps(kept_row(row)), **({"group": row.group} if row.group else {})}
    for metric, value in numbers_of(row).items():
        number = {"num_turns": len(turns)} if is_conversation else {}
        yield shared | {
            "evaluation_result_id": _result_id(task, WHOLE, metric),
            "evaluation": {"score": value, "is_correct": value == 1.0, **number},
            "metadata": kept,
        }
        kept = {}


def _choices(row: SampleRow) -> dict[str, Any]:
    options = [text for request in row.requests if isinstance(request, Loglikelihood) for text in request.continuations]
    return {"choices": options} if options else {}


def _texts(row: SampleRow) -> list[str]:
    """What was said: texts, or the likeliest continuation."""
    found = []
    for request, response in zip(row.requests, row.responses, strict=False):
        if isinstance(response, Loglikelihoods) and isinstance(request, Loglikelihood):
            found.append(request.continuations[max(range(len(response.logprobs)), key=response.logprobs.__getitem__)])
    return [response.text for response in row.responses if isinstance(response, Generated)] or found


def _messages(turns: Sequence[Generate], texts: Sequence[str]) -> list[dict[str, Any]]:
    """The last turn's conversation, which holds those before it, and its answer."""
    said = [*turns[-1].messages, ("assistant", texts[-1])]
    return [{"turn_idx": i, "role": role, "content": content} for i, (role, content) in enumerate(said)]


# --- in ---------------------------------------------------------------------------------------------------------------


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
        yield _Instance(where, row)


def _ours(file: Path, log: Mapping[str, Any], kept: str, instances: Sequence[_Instance]) -> tuple[str, Run, Sequence[SampleRow], bool]:
    raw = parse_json(kept)
    results = {result["evaluation_result_id"]: result["score_details"]["score"] for result in log["evaluation_results"]}
    (name,) = raw["tasks"]
    figures = {metric: results[_result_id(name, WHOLE, metric)] for metric in raw["tasks"][name]["metrics"]}
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
            scores[instance.raw["evaluation_result_id"].removeprefix(_result_id(task, WHOLE, ""))] = instance.score
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
        rows = [_row(each, metric) for each in mine]
        uncertainty = details.get("uncertainty") or {}
        error = (uncertainty.get("standard_error") or {}).get("value")
        interval = uncertainty.get("confidence_interval") or {}
        ci95 = (interval["lower"], interval["upper"]) if interval.get("confidence_level") == 0.95 else None
        where = f"{file}: {name}: score"
        scores: list[Any] = [row.metrics[metric] for row in rows]
        figure = stated(details["score"], scores, error, uncertainty.get("num_samples"), where, ci95)
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


def _is_of(instance: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    if (joined := instance.get("evaluation_result_id")) is not None and result.get("evaluation_result_id") is not None:
        return bool(joined == result["evaluation_result_id"])
    return bool(instance["evaluation_name"] == result["evaluation_name"])


def _row(instance: _Instance, metric: str) -> SampleRow:
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
    )
    return replace(row, group=str((raw.get("metadata") or {}).get("subject", "")))
