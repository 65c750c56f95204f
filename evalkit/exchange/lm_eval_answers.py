"""lm-eval's results as answers to compare.

A group's leaves (mmlu_anatomy, ..) are one task, every document counting the same. lm-eval writes a row a document and filter;
the first metric that is a number a document (or BLEU) is compared, or the one that is asked for.
"""

from collections.abc import Sequence

from evalkit.errors import EvalkitError, unknown
from evalkit.exchange.lm_eval_read import Leaf, Results, Row
from evalkit.record.pairs import TAIL, Answer, RunAnswers, TaskAnswers, cluster_of, merge, score_of


def answers_of(
    results: Results, path: str, wanted: Sequence[str] = (), metric: str | None = None, cluster: str | None = None
) -> RunAnswers:
    """`metric`: acc_norm, or with its filter: exact_match,strict-match; `cluster`: the field of a document that names its source.

    Raises EvalkitError for an unknown metric, or leaves that have different ones.
    """
    answers: dict[str, dict[str, Answer]] = {}
    protocols: dict[str, dict[str, str]] = {}
    metrics: dict[str, set[str]] = {}
    for leaf in results.leaves:
        if wanted and leaf.task not in wanted:
            continue
        chosen, found = _read_leaf(leaf, metric, cluster)
        answers.setdefault(leaf.task, {}).update(found)
        metrics.setdefault(leaf.task, set()).add(chosen)
        protocols.setdefault(leaf.task, {}).update(leaf.protocol)
        if leaf.evalkit_protocol:
            protocols[leaf.task]["protocol"] = f"{leaf.task}@{leaf.evalkit_protocol}"
    for task, several in metrics.items():
        if len(several) > 1:
            raise EvalkitError(f"{results.file}: the tasks of {task} have different metrics ({', '.join(sorted(several))}); pass --metric")
    tasks = {t: TaskAnswers(t, protocols[t], next(iter(metrics[t])), "micro", answers[t]) for t in answers}
    return RunAnswers(path, "lm-eval", results.model, tasks)


def document(leaf: Leaf, row: Row) -> str:
    """A document's id within its task: lm-eval numbers the documents of each leaf from 0."""
    return f"{leaf.name}/{row.doc_id}"


def _read_leaf(leaf: Leaf, metric: str | None, cluster: str | None) -> tuple[str, dict[str, Answer]]:
    """(metric, answers by document) of one samples file."""
    chosen: tuple[str, str] | None = None
    offered: dict[str, None] = {}
    found: dict[str, list[Answer]] = {}
    for row in leaf.rows():
        here = [(name, row.filter) for name in row.metrics]
        offered |= {",".join(pair): None for pair in here}
        if chosen is None:
            chosen = next((pair for pair in here if _fits(row, pair, metric)), None)
        if chosen in here:
            found.setdefault(document(leaf, row), []).append(_answer(row, leaf, chosen[0], cluster))
    if chosen is None and metric is not None:
        raise unknown(f"metric of {leaf.name}", metric, offered)
    if chosen is None:
        raise EvalkitError(f"{leaf.file} holds no metric that is a number a document, nor BLEU")
    return ",".join(chosen), {doc: merge(repeats) for doc, repeats in found.items()}


def _fits(row: Row, pair: tuple[str, str], metric: str | None) -> bool:
    if metric is not None:
        return metric in (pair[0], ",".join(pair))
    try:
        score_of(row.metrics[pair[0]], pair[0])
    except EvalkitError:
        return False
    return True


def _answer(row: Row, leaf: Leaf, metric: str, cluster: str | None) -> Answer:
    score = score_of(row.metrics[metric], metric)
    if metric in leaf.lower_is_better and isinstance(score, float):
        score = -score  # a perplexity: from here on, higher is better
    logprobs = [logprob for logprob, _ in row.logprobs]
    if logprobs:  # the likeliest continuation stands for the answer
        likeliest = row.asked[max(range(len(logprobs)), key=logprobs.__getitem__)]
        shown = str(likeliest[1]) if len(likeliest) > 1 else ""
    else:
        shown = " ".join(row.filtered)
    return Answer(
        row.doc_hash,
        row.prompt_hash,
        leaf.name,
        cluster_of(row.doc if isinstance(row.doc, dict) else {}, cluster) if cluster else "",
        score,
        str(row.asked[0][0])[-TAIL:],
        row.target,
        shown,
        (*logprobs, *row.texts),
    )
