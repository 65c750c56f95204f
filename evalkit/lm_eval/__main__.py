"""lm-eval's command line, in which the model `evalkit` is registered by now: Python imports the package first."""

import sys

from lm_eval.__main__ import cli_evaluate

from evalkit.errors import EvalkitError


def main() -> int:
    """Run `lm_eval` with this process's arguments; returns its exit code. What evalkit refuses is one line, and 2."""
    sys.argv[0] = "lm_eval"
    try:
        cli_evaluate()
    except EvalkitError as error:
        print(f"evalkit: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
