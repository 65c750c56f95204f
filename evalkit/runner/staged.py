"""A run that answers some documents at a time, for a gate that looks in between and may stop before the end.

Its answers are in the journal like any run's. While documents are missing, run.json says `incomplete`, holds no figure, and names the
`evalkit run` that answers the rest: a part of a benchmark, chosen by a gate, is nobody's score.
"""

import json
import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from evalkit.config import RunConfig
from evalkit.errors import EvalkitError, Interrupted
from evalkit.progress import Reporter
from evalkit.record.sample import Sample
from evalkit.record.write import write_record
from evalkit.runner.asking import converse
from evalkit.runner.folder import made, run_of
from evalkit.runner.journal import Journal
from evalkit.runner.plan import Plan
from evalkit.runner.run import interruptible, open_model, score_docs

Block = Callable[[Plan, Sequence[str]], list[Sample]]  # (task, ids of its documents) -> their samples


@contextmanager
def staged(config: RunConfig, sandbox: str | None, max_minutes: float | None, reporter: Reporter) -> Iterator[Block]:
    """What answers a block. Raises EvalkitError, RunIncomplete (an engine that fails) or OutOfTime, `max_minutes` from now."""
    clock, folder = time.monotonic(), config.folder
    deadline = clock + 60 * max_minutes if max_minutes else math.inf
    with made(folder), interruptible():
        journal = Journal(folder / "journal.sqlite")
        try:
            lm, record = open_model(config, journal, sandbox, reporter)
            lm.keep_prefixes()
            earlier = run_of(folder)
            is_ours = earlier is not None and earlier.model.fingerprint == lm.fingerprint
            if earlier and earlier.is_complete and not is_ours:
                raise EvalkitError(
                    f"{folder} holds a finished run of another model (fingerprint {earlier.model.fingerprint}); pass another --name"
                )

            def block(plan: Plan, ids: Sequence[str]) -> list[Sample]:
                if not is_ours:
                    write_record(folder, replace(record, command=run_command(config), seconds=round(time.monotonic() - clock, 3)))
                wanted = set(ids)
                chosen = [i for i, doc in enumerate(plan.docs) if doc.id in wanted]
                docs = [plan.docs[i] for i in chosen]
                part = replace(plan, docs=docs, requests=[plan.requests[i] for i in chosen])
                requests, responses = converse(part, lm, journal, reporter, deadline=deadline)
                with TemporaryDirectory() as scratch:  # of programs; the whole run keeps them
                    return score_docs(plan.task, docs, requests, responses, Path(scratch), config.allow_unsafe_code, reporter)

            with closing(lm):
                yield block
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {len(journal)} answers are kept in {folder}, run the same command again to go on") from None
        finally:
            journal.close()


def run_command(config: RunConfig) -> str:
    """The `evalkit run` of a configuration, into the same folder."""
    parts = ["evalkit", "run", "--tasks", ",".join(config.tasks)]
    for field in fields(config):
        value = getattr(config, field.name)
        flag = f"--{field.name.replace('_', '-')}"
        if field.name in ("tasks", "name", "quiet", "fresh") or value in (field.default, {}):
            continue
        if field.name == "chat_template_args":
            parts += [part for key, each in value.items() for part in ("--chat-template-arg", f"{key}={json.dumps(each)}")]
        else:
            parts += [flag] if value is True else [f"--no-{flag[2:]}"] if value is False else [flag, str(value)]
    return shlex.join([*parts, "--name", config.run_name])
