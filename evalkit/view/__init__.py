"""`evalkit view`: the samples of one run, or of two side by side, as one HTML file that needs nothing but a browser."""
