"""inspect's logs (.eval), through inspect_ai's own reader and writer: a log a task, a sample a document.

What a log has no field for (requests, hashes, counts) is in the metadata of the log and of each sample, under "evalkit".
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit import __version__
from evalkit.errors import EvalkitError, first_line, pip_install
from evalkit.exchange.recorded import (
    OURS,
    UNKNOWN,
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
    said,
)
from evalkit.exchange.stated import stated
from evalkit.files import kept, require_folder
from evalkit.hashing import sha256_json
from evalkit.record.sample import SampleRow
from evalkit.record.schema import DataInfo, Run, TaskEntry
from evalkit.tasks import Generated, Loglikelihood, is_refused, last_asked

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample, EvalScore

EXTRA = f"inspect logs need inspect_ai; run {pip_install('inspect')}"
KEYS = frozenset({"version", "status", "eval", "plan"})  # of a log as JSON, which inspect can write too
MEANS = ("accuracy", "mean")  # metrics of inspect's that are a mean over samples
STOPPED = {"length": "max_tokens", "stop": "stop", "eos": "stop"}


def _library() -> Any:
    """inspect_ai.log. Raises EvalkitError where it is not installed."""
    try:
        import inspect_ai.log
    except ImportError as error:
        raise EvalkitError(f"{EXTRA} ({first_line(error)})") from None
    return inspect_ai.log


# --- out --------------------------------------------------------------------------------------------------------------


def write(recorded: Recorded, out: Path, options: Mapping[str, str]) -> Written:
    """A log for each task. Raises EvalkitError where inspect_ai is missing, or the run has no samples."""
    library = _library()
    recorded.require_samples()
    require_folder(out)
    written = []
    for task, entry in recorded.run.tasks.items():
        path = out / f"{_moment(recorded.run).replace(':', '-')}_{task.replace('/', '-').replace(':', '-')}.eval"
        log = _log(recorded.run, task, entry, recorded.samples[task])
        with kept(path):
            out.mkdir(parents=True, exist_ok=True)
            library.write_eval_log(log, str(path), format="eval")
        written.append(path)
    return Written(written)


def _moment(run: Run) -> str:
    """When it was started, as inspect has it: ISO with a zone; 1970 where that is not known."""
    return (
        datetime.fromisoformat(run.started).astimezone().isoformat(timespec="seconds")
        if run.started != UNKNOWN
        else "1970-01-01T00:00:00+00:00"
    )


def _log(run: Run, task: str, entry: TaskEntry, rows: Sequence[SampleRow]) -> "EvalLog":
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalMetric, EvalResults, EvalSpec, EvalStats
    from inspect_ai.log import EvalScore as Score_

    moment = _moment(run)
    digest = sha256_json([run.model.fingerprint, run.started, task, entry.protocol_sha256])
    scores = []
    for name, estimate in entry.metrics.items():
        about = {"n": estimate.n, "ci95": list(estimate.ci95)}
        mean = EvalMetric(name="mean", value=estimate.value, metadata=about)
        metrics = {"mean": mean, "stderr": EvalMetric(name="stderr", value=estimate.stderr)}
        for group, figures in {**entry.groups, **entry.subjects}.items():
            if name in figures:
                metrics[group] = EvalMetric(name=group, value=figures[name].value, metadata={"stderr": figures[name].stderr})
        scores.append(Score_(name=name, scorer="evalkit", scored_samples=estimate.n, metrics=metrics))
    return EvalLog(
        status="success",
        eval=EvalSpec(
            eval_id=digest[:22],
            run_id=digest[22:44],
            task_id=digest[44:],
            created=moment,
            task=task,
            task_version=entry.protocol,
            dataset=EvalDataset(name=task, location=entry.data.source, samples=entry.n, sample_ids=[row.doc_id for row in rows]),
            model=run.model.spec if "/" in run.model.spec else f"evalkit/{run.model.spec}",
            config=EvalConfig(limit=run.limit),
            packages={"evalkit": __version__},
            metadata={OURS: kept_task(run, task)},
        ),
        results=EvalResults(total_samples=entry.n, completed_samples=entry.n, scores=scores),
        stats=EvalStats(started_at=moment, completed_at=moment),
        samples=[_sample(row, run.model.spec) for row in rows],
    )


def _sample(row: SampleRow, model: str) -> "EvalSample":
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatCompletionChoice, ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, ModelOutput
    from inspect_ai.scorer import Score

    kinds = {"user": ChatMessageUser, "assistant": ChatMessageAssistant, "system": ChatMessageSystem}

    def message(number: int, role: str, content: str) -> ChatMessage:
        return kinds.get(role, ChatMessageUser)(id=f"{row.prompt_hash[:16]}-{number}", content=content)

    last = row.requests[-1] if row.requests else None
    asked = [*last.messages, *([("assistant", last.context)] if last.context else ())] if last and last.messages else []
    messages = [message(i, *each) for i, each in enumerate(asked or [("user", last_asked(last) if last else "")])]
    texts = said(row)
    reasons = [response.finish_reason if isinstance(response, Generated) else "stop" for response in row.responses]
    choices = [
        ChatCompletionChoice(
            message=ChatMessageAssistant(id=f"{row.prompt_hash[:16]}-answer-{i}", content=text, model=model, source="generate"),
            stop_reason="content_filter" if is_refused(response) else STOPPED.get(reason, UNKNOWN),
        )
        for i, (text, reason, response) in enumerate(zip(texts, reasons, row.responses, strict=False))
    ]
    options = list(last.continuations) if isinstance(last, Loglikelihood) else None
    if asked:  # the earlier answers of a conversation are among its messages
        choices = choices[-1:]
    return EvalSample(
        id=row.doc_id,
        epoch=1,
        input=messages if asked else messages[0].text,
        choices=options,
        target=row.target,
        messages=[*messages, *(choice.message for choice in choices[:1])],
        output=ModelOutput(model=model, choices=choices),
        scores={name: Score(value=value, answer=row.extracted) for name, value in numbers_of(row).items()},
        metadata={"group": row.group, OURS: kept_row(row)},
        uuid=row.doc_hash[:22],
    )


# --- in ---------------------------------------------------------------------------------------------------------------


def read(place: Path) -> Recorded:
    """A log, or a folder of logs of one model. Raises EvalkitError for one that did not succeed or has no samples."""
    files = [place] if place.is_file() else sorted(place.glob("*.eval"))
    library, found = _library(), []
    for file in files:
        try:
            log = library.read_eval_log(str(file))
        except Exception as error:  # what its reader raises for a damaged file is its own
            raise EvalkitError(f"{file} can't be read by inspect_ai ({first_line(error):.100}); run or export it again") from None
        if log.status != "success" or log.invalidated:
            raise EvalkitError(f"{file}: status is {'invalidated' if log.invalidated else log.status}; run it to its end with inspect")
        if not log.samples or log.results is None:
            raise EvalkitError(
                f"{file} holds no {'samples' if log.results else 'results'}; run inspect without --no-log-samples, and score it"
            )
        found.append((file, log))
    kept_ones = {OURS in (log.eval.metadata or {}) for _, log in found}
    if len(kept_ones) > 1:
        raise EvalkitError(f"{place} holds logs of evalkit's runs and of inspect's; give those of one")
    is_ours = kept_ones == {True}
    parts = [_ours(file, log) if is_ours else _foreign(file, log) for file, log in found]
    return merged(place, OURS if is_ours else "inspect", parts)


def _ours(file: Path, log: "EvalLog") -> tuple[str, Run, Sequence[SampleRow]]:
    assert log.eval.metadata is not None
    assert log.results is not None
    figures = {score.name: score.metrics["mean"].value for score in log.results.scores if "mean" in score.metrics}
    task, run = from_kept(log.eval.metadata[OURS], str(file), figures)
    rows = []
    order = {doc: at for at, doc in enumerate(log.eval.dataset.sample_ids or ())}  # inspect's reader has its own
    for sample in sorted(log.samples or (), key=lambda sample: order.get(sample.id, len(order))):
        where = f"{file}: sample {sample.id}"
        scores = {name: score.value for name, score in (sample.scores or {}).items() if isinstance(score.value, int | float)}
        rows.append(row_from_kept(sample.metadata.get(OURS), where, scores, str(sample.target)))
    return task, run, rows


def _foreign(file: Path, log: "EvalLog") -> tuple[str, Run, Sequence[SampleRow]]:
    assert log.results is not None
    by_metric = dict(_metrics(file, log))
    samples: dict[str, EvalSample] = {}
    texts: dict[str, list[str]] = {}
    for sample in log.samples or ():
        if sample.error is not None:
            raise EvalkitError(f"{file}: sample {sample.id} ended with an error ({sample.error.message:.80}); run it again with inspect")
        samples.setdefault(str(sample.id), sample)
        texts.setdefault(str(sample.id), []).append(sample.output.completion)
    rows = [
        _row(file, sample, {name: values[doc] for name, (_, values) in by_metric.items() if doc in values}, texts[doc])
        for doc, sample in samples.items()
    ]
    metrics = {
        name: stated(figure, [float(value) for value in values.values()], where=f"{file}: {name} is")
        for name, (figure, values) in by_metric.items()
    }
    spec = log.eval
    settings = [
        spec.task,
        spec.task_version,
        spec.solver,
        spec.task_args,
        spec.config.epochs,
        spec.model_generate_config.model_dump(mode="json"),
    ]
    entry = foreign_entry(
        f"inspect's {spec.task}",
        settings,
        metrics,
        len(rows),
        DataInfo(source="inspect", sha256=sha256_json([row.doc_hash for row in rows])),
        n_total=max(spec.dataset.samples or 0, len(rows)),
        no_shares=tuple(name for name, (_, values) in by_metric.items() if not all(0 <= value <= 1 for value in values.values())),
    )
    engine = f"inspect_ai {spec.packages.get('inspect_ai', '')}".strip()
    commit = spec.revision.commit if spec.revision else None
    return spec.task, foreign_run(file.stem, spec.model, engine, spec.created, {spec.task: entry}, commit), rows


def _metrics(file: Path, log: "EvalLog") -> Iterator[tuple[str, tuple[Any, Mapping[str, float]]]]:
    """(name, (figure, value by sample)) of each score that inspect averages over samples: its own reduction over epochs."""
    assert log.results is not None
    reduced = {(each.scorer, each.reducer): each.samples for each in log.reductions or ()}
    for score in log.results.scores:
        mean = next((score.metrics[name] for name in MEANS if name in score.metrics), None)
        samples = reduced.get((score.scorer, score.reducer)) or reduced.get((score.name, score.reducer))
        if mean is None or samples is None:
            continue
        name = score.name if score.reducer in (None, "mean") else f"{score.name}/{score.reducer}"
        yield name, (mean.value, {str(each.sample_id): _number(file, each.value, score, each.sample_id) for each in samples})
    if not any(set(MEANS) & set(score.metrics) for score in log.results.scores):
        offered = ", ".join(f"{score.name}/{name}" for score in log.results.scores for name in score.metrics) or "none"
        raise EvalkitError(f"{file} has no metric {' or '.join(MEANS)} (metrics: {offered}); only means over samples can be read")


def _number(file: Path, value: Any, score: "EvalScore", doc: Any) -> float:
    """inspect's own reading of a score: C is 1, I is 0, P is a half; of a score in several parts, the one of this name."""
    from inspect_ai.scorer import value_to_float

    part = value.get(score.name) if isinstance(value, dict) else value
    if isinstance(part, str) and part.strip().lower() not in ("c", "i", "p", "n", "yes", "no", "true", "false") and not _is_numeral(part):
        raise EvalkitError(f"{file}: sample {doc}: {score.name} is {part!r:.40}, not a score that inspect averages; score the log again")
    return float(value_to_float()(part))


def _is_numeral(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _row(file: Path, sample: "EvalSample", metrics: Mapping[str, float], texts: Sequence[str]) -> SampleRow:
    asked = sample.input if isinstance(sample.input, str) else [(each.role, each.text) for each in sample.input]
    answer = next((score.answer for score in (sample.scores or {}).values() if score.answer), "")
    target = sample.target if isinstance(sample.target, str) else "\n".join(sample.target)
    doc = {"input": asked, **({"choices": sample.choices} if sample.choices else {}), **sample.metadata}
    return foreign_row(str(sample.id), doc, asked, target, metrics, texts, answer, f"{file}: sample {sample.id}")
