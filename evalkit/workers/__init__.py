"""Several workers answer the requests of one run: processes on this machine, servers, or Ray actors. `open_workers` makes them one LM."""

import shutil
from pathlib import Path

from evalkit.config import RunConfig
from evalkit.errors import EvalkitError, RunIncomplete
from evalkit.lm.base import LM
from evalkit.progress import Reporter


def open_workers(config: RunConfig, logs: Path, reporter: Reporter) -> LM:
    """The model of a run with workers, whose logs go to the folder `logs`. Raises EvalkitError, or RunIncomplete where none can open it."""
    from evalkit.workers.pool import WorkersLM

    if config.ray:
        from evalkit.workers.ray_actors import RayActors

        actors = RayActors(config.ray, config.model_spec, config.workers)
        return WorkersLM(actors, config.model_spec, actors.count, reporter.say)
    from evalkit.workers.processes import Processes

    is_new, count = not logs.exists(), config.num_workers
    try:
        return WorkersLM(Processes(config.model_spec, count, logs), config.model_spec, count, reporter.say)
    except EvalkitError as error:
        if is_new and not isinstance(error, RunIncomplete):  # refused, and the message says all
            shutil.rmtree(logs, ignore_errors=True)
        raise
