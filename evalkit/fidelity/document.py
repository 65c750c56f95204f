"""What was measured as a document, for the screen, markdown and HTML: for each task its divergences and its answers, then the models."""

from collections.abc import Callable, Iterator, Sequence

from evalkit.comparison.compare import scale
from evalkit.fidelity.plot import divergence_plot
from evalkit.fidelity.record import Answers, Copy, Fidelity, Mean, Measured
from evalkit.report.document import Document, Grid, Notes, Section
from evalkit.stats.paired import Difference

KL = "KL(reference || copy) in nats, over the whole vocabulary at each scored token; intervals at 95%, clustered by document"
DIVERGENCE_HEAD = ("copy", "mean KL", "95% interval", "median", "90%", "99%", "max")
TOKENS_HEAD = ("model", "same top token", "95% interval", "perplexity", "ratio", "95% interval")
ANSWERS_HEAD = ("model", "score", "difference", "95% interval", "right to wrong", "wrong to right", "other changes")
MODELS_HEAD = ("model", "weights", "size", "computed", "scored tokens/s", "generated tokens/s", "fingerprint")
LONGEST_LIST = 8  # documents named in a remark; fidelity.json has all


def to_document(record: Fidelity) -> Document:
    """The whole of it."""
    sections = [
        Section(f"task-{number}", record.tasks[name].protocol, [measured_on(record, name), *_task_blocks(record, name, number)])
        for number, name in enumerate(record.tasks, start=1)
    ]
    plot = divergence_plot(record)
    models = Section("models", "Models", [models_grid(record), *([plot] if plot else [])])
    count = len(record.copies)
    title = f"{record.reference.name} and {'its copy' if count == 1 else f'{count} copies'}"
    return Document(title, [f"{KL}."], [*sections, models])


def measured_on(record: Fidelity, name: str) -> str:
    """ "120 of 14,042 documents (dir ba28e2fb), 120 token positions, 480 scored tokens"."""
    task, found = record.tasks[name], record.copies[0].tasks[name]
    documents = f"{task.n:,}" if task.n == task.n_total else f"{task.n:,} of {task.n_total:,}"
    tokens = f"{found.divergence.positions:,} token positions, {found.perplexity.tokens:,} scored tokens"
    return f"Measured on {task.protocol}: {documents} documents ({task.data}), {tokens}."


def _task_blocks(record: Fidelity, name: str, number: int) -> Iterator[Grid | Notes]:
    yield divergence_grid(record, name, number)
    yield tokens_grid(record, name, number)
    yield answers_grid(record, name, number)
    if lines := list(_remarks(record, name)):
        yield Notes("Remarks", lines)


def divergence_grid(record: Fidelity, name: str, number: int) -> Grid:
    """A row for each copy."""
    rows = []
    for copy in record.copies:
        found = copy.tasks[name].divergence
        figures = map(nats, (found.median, found.p90, found.p99, found.max))
        rows.append((copy.model.name, nats(found.mean.value), interval(found.mean, nats), *figures))
    return Grid(f"divergence-{number}", "KL divergence from the reference", "lrrrrrr", DIVERGENCE_HEAD, rows)


def tokens_grid(record: Fidelity, name: str, number: int) -> Grid:
    """The most likely tokens and the scored ones: the reference, then the copies."""
    rows: list[tuple[str, ...]] = []
    for copy in record.copies:
        same, tokens = copy.tasks[name].divergence.same_top, copy.tasks[name].perplexity
        if not rows:
            rows.append((record.reference.name, "", "", f"{tokens.reference:.4g}", "", ""))
        ratio = (f"{tokens.ratio.value:.4f}", interval(tokens.ratio, "{:.4f}".format))
        rows.append((copy.model.name, share(same.value), interval(same, share), f"{tokens.copy:.4g}", *ratio))
    return Grid(f"tokens-{number}", "Tokens", "lrrrrr", TOKENS_HEAD, rows)


def answers_grid(record: Fidelity, name: str, number: int) -> Grid:
    """The reference, then the copies; of a suite a row for each of its sets."""
    first = record.copies[0].tasks[name].answers
    is_suite = len(first) > 1
    rows = [(_label(record.reference, answers, is_suite), *_score(answers.difference, "base"), *[""] * 5) for answers in first]
    for copy in record.copies:
        rows += [(_label(copy.model, answers, is_suite), *_changes(answers)) for answers in copy.tasks[name].answers]
    metrics = ", ".join(dict.fromkeys(answers.metric for answers in first))
    return Grid(f"answers-{number}", f"Answers ({metrics})", "lrrrrrr", ANSWERS_HEAD, rows)


def _label(model: Measured, answers: Answers, is_suite: bool) -> str:
    return f"{model.name}: {answers.name}" if is_suite else model.name


def _score(difference: Difference | None, which: str) -> tuple[str]:
    if difference is None:
        return ("-",)
    by, digits = scale(difference)
    return (f"{by * getattr(difference, which):.{digits}f}",)


def _changes(answers: Answers) -> tuple[str, ...]:
    d = answers.difference
    flips = ["-" if count is None else f"{count:,}" for count in (answers.right_to_wrong, answers.wrong_to_right)]
    if d is None:
        return "-", "-", "-", *flips, f"{answers.other:,}"
    by, digits = scale(d)
    low, high = (f"{by * x:+.{digits}f}" for x in d.ci95)
    return (*_score(d, "cand"), f"{by * d.value:+.{digits}f}", f"{low} to {high}", *flips, f"{answers.other:,}")


def models_grid(record: Fidelity) -> Grid:
    """The reference, then the copies: what the files hold, how it is computed, how fast it was in this run."""
    rows = [_model_row(model) for model in (record.reference, *(copy.model for copy in record.copies))]
    return Grid("models", "Size and speed", "lrrlrrl", MODELS_HEAD, rows)


def _model_row(model: Measured) -> tuple[str, ...]:
    info, speed = model.info, model.speed
    return (
        model.name,
        str(info.weights) if info.weights else "-",
        f"{model.file_bytes / 1e6:,.1f} MB" if model.file_bytes else "-",
        info.how,
        *(f"{rate:,.1f}" if rate else "-" for rate in (speed.scored_rate, speed.generated_rate)),
        info.fingerprint[:19],
    )


def _remarks(record: Fidelity, name: str) -> Iterator[str]:
    for copy in record.copies:
        yield from (f"{copy.model.name}: {line}" for line in _copy_remarks(copy, name))


def _copy_remarks(copy: Copy, name: str) -> Iterator[str]:
    found = copy.tasks[name]
    if not found.divergence.max and not any(answers.flipped for answers in found.answers):
        yield "the same distribution at every position, and every answer is the same"
    for answers in found.answers:
        if answers.why_no_score:
            yield f"no score: {answers.why_no_score}"
        if answers.flipped:
            yield f"changed answers in {answers.name}: {_some(answers.flipped)}"
    if found.divergence.max:
        yield "furthest apart: " + ", ".join(f"{doc.id} (mean KL {nats(doc.mean)})" for doc in found.divergence.worst)
    if padding := found.padding:
        yield (
            f"vocabularies of {padding.reference_rows:,} and {padding.copy_rows:,} rows: compared over those that both have; "
            f"the others have at most {padding.largest_mass:.2g} of the probability"
        )
    if found.empty:
        yield f"{found.empty:,} documents have an answer of no token, so no position to compare"
    if found.divergence.mean.ci95 is None:
        yield "no interval: all documents are of one cluster"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LONGEST_LIST:,} more" if len(names) > LONGEST_LIST else ""
    return ", ".join(names[:LONGEST_LIST]) + more


def nats(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def share(value: float) -> str:
    """A percentage."""
    return f"{100 * value:.2f}%"


def interval(mean: Mean, words: Callable[[float], str]) -> str:
    """ "0.011 to 0.013"; "-" where there is none."""
    return f"{words(mean.ci95[0])} to {words(mean.ci95[1])}" if mean.ci95 else "-"
