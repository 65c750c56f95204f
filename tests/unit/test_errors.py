"""Messages of other libraries, put into one line of ours."""

import pytest

from evalkit.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(-2, "Name or service not known"), "Name or service not known"),
        (ConnectionError("[Errno 111] Connection refused"), "Connection refused"),
        (ValueError("  first\nsecond"), "first"),
        (ValueError(), "ValueError"),
    ],
)
def test_the_first_line_without_the_number(error: Exception, line: str) -> None:
    assert first_line(error) == line
