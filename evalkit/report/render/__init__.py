"""A document as markdown, LaTeX, HTML and files."""
