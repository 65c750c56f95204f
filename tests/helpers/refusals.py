"""What a user reads where moe_lm does not take what it is given."""

from collections.abc import Callable
from typing import Any

import pytest

from moe_lm.checkpoint.read import load
from moe_lm.errors import ModelError


def refused(given: Any, *words: str, by: Callable[[Any], object] = load) -> str:
    """`by` refuses what it is given in one line that holds all the words; returns the line."""
    with pytest.raises(ModelError) as caught:
        by(given)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    assert all(word in message for word in words), message
    return message
