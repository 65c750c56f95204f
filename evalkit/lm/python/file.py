"""The class of a model of one's own, by its file's and its own name."""

from pathlib import Path

from evalkit.errors import EvalkitError, unknown
from evalkit.tasks.own_file import OwnFile, run_file

FORM = "--engine python:FILE:CLASS, as in python:my_model.py:MyModel"


def read_class(argument: str) -> tuple[OwnFile, type]:
    """The class that FILE:CLASS names, and its file. Raises EvalkitError in one line, OwnCodeError where the file can't be imported."""
    file, _, name = argument.rpartition(":")
    if not file or not name:
        raise EvalkitError(f"engine python:{argument} does not name a file and a class; give {FORM}")
    own = run_file(Path(file).expanduser())
    found = vars(own.module).get(name)
    if found is None:
        known = [each for each, value in vars(own.module).items() if isinstance(value, type) and value.__module__ == own.module.__name__]
        raise unknown(f"class of {own.path}", name, known)
    if not isinstance(found, type):
        raise EvalkitError(f"{name} in {own.path} is a {type(found).__name__}, not a class; give the name of a class in {FORM}")
    return own, found
