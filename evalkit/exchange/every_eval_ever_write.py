"""Every Eval Ever 0.3.0 (arXiv 2606.14516): data/COLLECTION/DEVELOPER/MODEL/UUID.json, figures, and UUID_samples.jsonl beside it.

Schemas: eval.schema.json and instance_level_eval.schema.json of the package every-eval-ever. A file a task; a result for each metric of
the task, its categories and subjects; an instance for each document and metric that is a number. What has no key there is JSON in
`additional_details` and `metadata`, under "evalkit".
"""

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from evalkit import __version__
from evalkit.exchange.hub import BENCHMARKS
from evalkit.exchange.recorded import (
    OURS,
    UNKNOWN,
    Recorded,
    Written,
    kept_row,
    kept_task,
    numbers_of,
    said,
)
from evalkit.files import write_output
from evalkit.hashing import sha256_json
from evalkit.record.sample import SampleRow
from evalkit.record.schema import JudgeEntry, ModelInfo, Run, TaskEntry, task_of
from evalkit.stats.estimate import Estimate
from evalkit.tasks import Generate, JudgedTask, Loglikelihood, last_asked
from evalkit.tasks.registry import task_classes

VERSION = "0.3.0"
WHOLE = "all"  # the part of a result that is of the whole task


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
    epoch = str(int(datetime.fromisoformat(run.started).timestamp())) if run.started != UNKNOWN else "0"
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


def result_id(task: str, part: str, metric: str) -> str:
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
        "evaluation_result_id": result_id(task, part, metric),
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
    texts = said(row)
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
            "evaluation_result_id": result_id(task, WHOLE, metric),
            "evaluation": {"score": value, "is_correct": value == 1.0, **number},
            "metadata": kept,
        }
        kept = {}


def _choices(row: SampleRow) -> dict[str, Any]:
    options = [text for request in row.requests if isinstance(request, Loglikelihood) for text in request.continuations]
    return {"choices": options} if options else {}


def _messages(turns: Sequence[Generate], texts: Sequence[str]) -> list[dict[str, Any]]:
    """The last turn's conversation, which holds those before it, and its answer."""
    said = [*turns[-1].messages, ("assistant", texts[-1])]
    return [{"turn_idx": i, "role": role, "content": content} for i, (role, content) in enumerate(said)]
