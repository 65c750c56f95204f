"""Reports: published figure, measured figure, interval and verdict side by side."""
