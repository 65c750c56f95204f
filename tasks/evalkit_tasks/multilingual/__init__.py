"""The multilingual suite: its table of cells, an adapter a set, and the tasks that are made of them."""
