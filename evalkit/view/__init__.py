"""`evalkit view`: the samples of one run, or of two side by side, as one self-contained HTML file."""
