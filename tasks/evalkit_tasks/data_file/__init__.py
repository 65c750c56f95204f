"""Tasks without code: a data file with columns, and a TOML file that says how it is asked where the usual way will not do."""
