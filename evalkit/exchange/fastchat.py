"""FastChat's MT-Bench files out of a run: model_answer/MODEL.jsonl, and model_judgment/JUDGE_single.jsonl once it is judged.

`evalkit score mt_bench FILE` makes runs out of judgments: their questions, and how many turns each has, are not in the file.
"""

from collections.abc import Mapping
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.exchange.recorded import Recorded, Written
from evalkit.files import write_output


def read(place: Path) -> Recorded:
    """Raises EvalkitError, which says what to do: judgments alone are no run."""
    file = place if place.is_file() else next(place.glob("model_judgment/*_single.jsonl"))
    raise EvalkitError(f"{file} holds FastChat's judgments, of one model or several; make runs of them: evalkit score mt_bench {file}")


def write(recorded: Recorded, out: Path, options: Mapping[str, str]) -> Written:
    """Both files. Raises EvalkitError where the run has no answers to MT-Bench, or its judgments are not beside it."""
    from evalkit.judge import fastchat
    from evalkit.judge.answered import file_name, read_answered
    from evalkit.judge.result import judgments_folder

    if recorded.run.model.engine == "file":
        raise EvalkitError(f"{recorded.path} was scored from a file of judgments, which holds no answers; that file is FastChat's already")
    answered = read_answered(recorded.path)
    if answered.judged_task.judgment_files != "fastchat":
        raise EvalkitError(f"{recorded.path}: {answered.task} is not in FastChat's files; only mt_bench is")
    judged = []
    if (judge := answered.entry.judge) is not None:
        theirs = judgments_folder(answered) / "model_judgment" / f"{file_name(judge.model)}_single.jsonl"
        if not theirs.is_file():
            raise EvalkitError(f"{theirs} is missing, which evalkit judge wrote; judge the run again, which asks for nothing twice")
        judged = [theirs]
    written = [fastchat.write_answers(out, answered)]
    for theirs in judged:
        copy = out / "model_judgment" / theirs.name
        if copy.resolve() != theirs.resolve():
            write_output(copy, theirs.read_bytes())
        written.append(copy)
    return Written(written)
