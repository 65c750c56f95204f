"""The multilingual suite: its table of cells, an adapter for each set, and the tasks made of them."""
