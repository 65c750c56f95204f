"""`evalkit fidelity REFERENCE COPY..`: check everything, then measure copy after copy, and keep what is measured."""

from __future__ import annotations

import gc
import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from evalkit.codec import decode, encode, parse_json
from evalkit.data.sources import open_source
from evalkit.errors import EvalkitError, Interrupted
from evalkit.fidelity.measure import Model, answer, asked, measure, require_same_tokens
from evalkit.fidelity.record import SCHEMA, Copy, Fidelity, Measured, TaskData
from evalkit.files import read_text, require_folder, write_output
from evalkit.hashing import sha256_json
from evalkit.lm import open_lm, require_model
from evalkit.lm.distributions import GIVING, GivesDistributions
from evalkit.record.write import command_line, environment, model_info, now
from evalkit.runner.plan import Plan, plan
from evalkit.runner.programs import permit
from evalkit.runner.run import interruptible
from evalkit.tasks import CodeTask
from evalkit.tasks.registry import resolve_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from evalkit.config import ModelSpec
    from evalkit.fidelity.config import FidelityConfig
    from evalkit.fidelity.measure import Asked
    from evalkit.lm.base import LM
    from evalkit.progress import Reporter

FILE = "fidelity.json"


def fidelity(config: FidelityConfig, reporter: Reporter, open_model: Callable[[ModelSpec], LM] = open_lm) -> Fidelity:
    """Measure every copy that `--out` does not hold yet; fidelity.json is replaced after each.

    Raises EvalkitError for bad input before anything is computed, and RunIncomplete where it stops early.
    """
    if config.out is not None:
        require_folder(Path(config.out))
    for text in (config.reference, *config.copies):
        if (model := config.model(text)).engine not in GIVING:
            raise _without_distributions(text, model)
        require_model(model)
    tasks = resolve_all(config.tasks)
    with reporter.bar("reading data", 1, counted=False):
        plans = {name: plan(task, open_source(config.data), config.limit) for name, task in tasks.items()}
    sandbox = permit(config.allow_unsafe_code) if any(isinstance(task, CodeTask) for task in tasks.values()) else None
    with interruptible(), _programs_folder(config) as folder:
        try:
            return _fidelity(config, plans, sandbox, folder, reporter, open_model)
        except KeyboardInterrupt:
            kept = f"what is done is kept in {config.out}, and the same command goes on" if config.out else "nothing is kept without --out"
            raise Interrupted(f"interrupted; {kept}") from None


def _fidelity(
    config: FidelityConfig,
    plans: Mapping[str, Plan],
    sandbox: str | None,
    folder: Path,
    reporter: Reporter,
    open_model: Callable[[ModelSpec], LM],
) -> Fidelity:
    reference, *copies = (_open(config, text, reporter, open_model) for text in (config.reference, *config.copies))
    record = Fidelity(
        status="incomplete",
        command=command_line(),
        started=now(),
        limit=config.limit,
        tasks={name: _task_data(each) for name, each in plans.items()},
        reference=_measured(reference),
        copies=(),
        environment=environment(sandbox),
    )
    earlier = _earlier(config, record)
    known = {copy.model.info.fingerprint: copy for copy in earlier.copies} if earlier else {}
    reference.speed = earlier.reference.speed if earlier else reference.speed
    measured: tuple[Copy, ...] = ()
    work = _checked(plans, reference, [copy for copy in copies if copy.lm.fingerprint not in known], reporter)
    while copies:  # a copy's memory is free before the next one is loaded
        copy = copies.pop(0)
        if (done := known.get(copy.lm.fingerprint)) is None:
            done = _measure(work, reference, copy, folder, config.allow_unsafe_code, reporter)
            known[copy.lm.fingerprint] = done
        else:
            reporter.say(f"{copy.name}: measured before, from {config.out or 'a copy with the same fingerprint'}")
        copy.speed = done.model.speed
        measured += (replace(done, model=_measured(copy)),)
        kept = _others(earlier, measured)
        record = replace(record, reference=_measured(reference), copies=measured + kept, status="incomplete" if copies else "complete")
        if config.out is not None:
            write_output(Path(config.out) / FILE, as_text(record))
        del copy
        gc.collect()
    return record


def _others(earlier: Fidelity | None, measured: Sequence[Copy]) -> tuple[Copy, ...]:
    """What `--out` holds of copies that the command does not name, or has not come to. One of a name that is measured now is replaced."""
    names = {copy.model.name for copy in measured} | {copy.model.info.fingerprint for copy in measured}
    return tuple(copy for copy in (earlier.copies if earlier else ()) if names.isdisjoint((copy.model.name, copy.model.info.fingerprint)))


def _open(config: FidelityConfig, text: str, reporter: Reporter, open_model: Callable[[ModelSpec], LM]) -> Model:
    spec = config.model(text)
    with reporter.bar(f"opening {config.name(text)}", 1, counted=False):
        lm = open_model(spec)
    if not isinstance(lm, GivesDistributions):
        raise _without_distributions(text, spec)
    for notice in lm.notices:
        reporter.say(f"{config.name(text)}: {notice}")
    return Model(config.name(text), spec, lm, lm)


def _without_distributions(text: str, model: ModelSpec) -> EvalkitError:
    return EvalkitError(
        f"{text}: engine {model.engine} does not give its whole distributions, which KL divergence needs; run the weights on --engine "
        "native, or compare scores and flips alone: evalkit run with each, then evalkit compare"
    )


def _checked(plans: Mapping[str, Plan], reference: Model, copies: Sequence[Model], reporter: Reporter) -> list[Asked]:
    """The tasks in the reference's tokens, with its answers. Raises EvalkitError for a copy with other tokens before weights are read."""
    if not copies:
        return []
    with reporter.bar("prompts to tokens", 1, counted=False):
        work = [asked(name, each, reference) for name, each in plans.items()]
        for copy in copies:
            for task in work:
                require_same_tokens(task, reference, copy)
    reference.prepare(reporter)
    for task in work:
        task.answers.update(answer(task, reference, reporter))
    return work


def _measure(work: Sequence[Asked], reference: Model, copy: Model, folder: Path, allow_unsafe_code: bool, reporter: Reporter) -> Copy:
    copy.prepare(reporter)
    tasks = {task.name: measure(task, reference, copy, folder, allow_unsafe_code, reporter) for task in work}
    return Copy(model=_measured(copy), tasks=tasks)


def _measured(model: Model) -> Measured:
    info = model_info(model.spec.name, model.spec.engine, model.lm)
    return Measured(name=model.name, info=info, file_bytes=model.engine.file_bytes, speed=model.speed)


def _task_data(plan: Plan) -> TaskData:
    protocol = plan.task.protocol
    return TaskData(
        protocol=str(protocol), protocol_sha256=sha256_json(encode(protocol)), n=len(plan.docs), n_total=plan.n_total, data=plan.data
    )


def as_text(record: Fidelity) -> str:
    """fidelity.json."""
    return json.dumps(encode(record), indent=2, ensure_ascii=False) + "\n"


def _earlier(config: FidelityConfig, record: Fidelity) -> Fidelity | None:
    """What `--out` holds of the same reference and tasks. Raises EvalkitError where it holds something else."""
    file = Path(config.out or "") / FILE
    if config.out is None or config.fresh or not file.exists():
        return None
    fix = "give another --out, or --fresh to replace it"
    try:
        raw = parse_json(read_text(file))
    except (OSError, ValueError) as error:
        raise EvalkitError(f"cannot read {file} ({error}); {fix}") from None
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        raise EvalkitError(f"{file} is not of schema {SCHEMA}, which this evalkit reads; {fix}")
    found = decode(Fidelity, raw, str(file), fix)
    if found.reference.info.fingerprint != record.reference.info.fingerprint:
        raise EvalkitError(f"{file} has another reference, {found.reference.name} ({found.reference.info.fingerprint[:19]}); {fix}")
    if found.tasks != record.tasks:
        told = ", ".join(f"{task.protocol} ({task.n:,} documents of {task.data})" for task in found.tasks.values())
        raise EvalkitError(f"{file} was measured on {told}; {fix}")
    return found


@contextmanager
def _programs_folder(config: FidelityConfig) -> Iterator[Path]:
    """Where answers that are programs are kept."""
    if config.out is not None:
        yield Path(config.out) / "programs"
    else:
        with TemporaryDirectory() as folder:
            yield Path(folder)
