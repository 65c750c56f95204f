"""`evalkit merge`."""

import argparse

from evalkit.cli.options import add_published, add_shared, given, reporter_of, with_data
from evalkit.cli.output import add_json, present


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Put the command into the parser."""
    merge = commands.add_parser(
        "merge",
        help="join the shards of a run",
        description="Join the shards that evalkit run --shard I/N made to one run: the same samples as one process's. No model is loaded.",
        examples=(
            "evalkit merge results/runs/part1 results/runs/part2 --name whole",
            "evalkit merge shards/* --data DIR --out results/runs",
        ),
    )
    merge.add_argument("runs", nargs="+", metavar="RUN", help="the folders of all shards, in any order")
    helps = {
        "data": "where the shards' data are here: hub, sample, or a folder (default: as the shards were run, else EVALKIT_DATA)",
        "include_path": "where the folder of lm-eval task files is here (default: as the shards were run)",
        "name": "name of the run's folder (default: what evalkit run without --shard calls it)",
    }
    add_shared(merge, "data", "include_path", "allow_task_code", "out", "name", "quiet", helps=helps)
    add_published(merge, default=None, help="that figures are shown beside (default: all tables)")
    add_json(merge, "run.json")
    merge.set_defaults(command=_merge)


def _merge(arguments: argparse.Namespace) -> None:
    from evalkit.codec import encode
    from evalkit.progress import console
    from evalkit.report.published import read_table
    from evalkit.report.screen import show
    from evalkit.runner.merge import MergeConfig, merge

    if arguments.published:
        read_table(arguments.published)
    config = MergeConfig(**{**given(arguments, MergeConfig), "runs": tuple(arguments.runs), "default_data": with_data({}).get("data")})
    record, folder = merge(config, reporter_of(arguments))
    present(arguments, lambda: encode(record), lambda: show(record, folder, console(), arguments.published))
