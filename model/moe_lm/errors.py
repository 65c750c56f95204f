"""This package's exceptions for bad input; their text is a single line that names the value and the fix."""


class ModelError(ValueError):
    """A checkpoint, config or request that moe_lm can't run as asked."""


class Unsupported(ModelError):
    """A model that moe_lm does not implement, though nothing is wrong with its files: another engine may run it."""


class NotFinite(ModelError):
    """Logits or log-probabilities that are NaN or infinite: the model or its precision is at fault, not the request."""
