"""lm-eval's results as a run of ours, for reports: its own figures, each recomputed from the samples, with an interval.

Its protocol is that of our export, or else named as lm-eval's own: no published figure of ours is under it.
"""

from evalkit.errors import EvalkitError
from evalkit.exchange.lm_eval_answers import LmEvalTask, read_tasks
from evalkit.exchange.lm_eval_read import Results
from evalkit.hashing import sha256_json
from evalkit.record.figure import estimate, figure
from evalkit.record.schema import Counts, DataInfo, Environment, ModelInfo, Run, TaskEntry, Tokens
from evalkit.stats.estimate import Estimate, normal

_UNKNOWN = "unknown"


def run_of(results: Results) -> Run:
    """Raises EvalkitError where samples are missing or do not give the file's own figures."""
    tasks, _ = read_tasks(results)
    engine = f"lm-eval {results.version}".strip()
    fingerprint = f"sha256:{sha256_json([results.model, engine, *sorted(results.figures)])}"
    return Run(
        name=results.folder.name,
        status="complete",
        command=engine,
        started=results.started or _UNKNOWN,
        seconds=0.0,
        limit=None,
        seed=0,
        model=ModelInfo(spec=results.model, fingerprint=fingerprint, engine=engine),
        tasks={task.answers.name: _entry(task, results) for task in tasks},
        environment=Environment(python=_UNKNOWN, torch=_UNKNOWN, platform=_UNKNOWN, cpu=_UNKNOWN, cores=None, gpu=None, git=results.git),
    )


def _entry(task: LmEvalTask, results: Results) -> TaskEntry:
    answers, leaves = task.answers, task.leaves
    metric = answers.metric.removesuffix(",none")
    settings = sorted(answers.protocol.items())
    n = len(answers.answers)
    hashes = [leaf.sha256 or "" for leaf in leaves]
    return TaskEntry(
        protocol=task.protocol,
        protocol_sha256=sha256_json(settings),
        headline=metric,
        averaging="micro" if answers.averaging == "micro" else "macro",
        metrics={metric: _estimate(task, results)},
        groups={},
        n=n,
        n_total=n if task.n_total is None else task.n_total,
        counts=Counts(extraction_failed=0, truncated=0, boundary_merged=0, stopped_by_length=0, unscored=0),
        lower_is_better=(metric,) if answers.lower_is_better else (),
        data=DataInfo(source="lm-eval", sha256=sha256_json(hashes)),
        seconds=0.0,
        tokens=Tokens(),
    )


def _estimate(task: LmEvalTask, results: Results) -> Estimate:
    """The figure and its interval: from the documents, of BLEU from lm-eval's own standard error."""
    answers = task.answers
    if (mean := estimate(answers)) is not None:
        return mean
    name, _, chosen = answers.metric.partition(",")
    stderr = results.figures.get(task.name, {}).get(f"{name}_stderr,{chosen}")
    if not isinstance(stderr, float):
        raise EvalkitError(
            f"{results.folder}: {answers.metric} of {answers.name} has no standard error; run lm-eval with --bootstrap_iters"
        )
    value, points = figure(answers).value, 1 if task.leaves[0].evalkit_protocol else 100
    return Estimate(value, stderr / points, normal(value, stderr / points), len(answers.answers))
