"""evalkit: does this model really score what its table says?"""

__version__ = "0.1.0"
