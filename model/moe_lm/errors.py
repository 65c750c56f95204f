"""The one exception of this package for bad input; its text is a single line that names the value and the fix."""


class ModelError(ValueError):
    """A checkpoint, config or request that moe_lm can't run as asked."""
