"""`evalkit reproduce`: every figure of a published table that can be had here, planned, measured and reported."""
