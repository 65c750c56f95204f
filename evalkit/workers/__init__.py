"""Several workers answer the requests of one run: processes on this machine, servers, or Ray actors. `open_workers` makes them one LM."""

from pathlib import Path

from evalkit.config import RunConfig
from evalkit.lm.base import LM
from evalkit.progress import Reporter


def open_workers(config: RunConfig, logs: Path, reporter: Reporter) -> LM:
    """The model of a run with workers, whose logs go to the folder `logs`. Raises EvalkitError, or RunIncomplete where none can open it."""
    from evalkit.workers.pool import WorkersLM

    if config.ray:
        from evalkit.workers.ray_actors import RayActors

        actors = RayActors(config.ray, config.model_spec, config.workers, logs)
        return WorkersLM(actors, config.model_spec, actors.count, reporter.say)
    from evalkit.workers.processes import Processes

    count = config.num_workers
    return WorkersLM(Processes(config.model_spec, count, logs), config.model_spec, count, reporter.say)
