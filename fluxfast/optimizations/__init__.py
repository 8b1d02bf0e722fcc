"""One optimization, one file: each defines a constant `OPTIMIZATION`."""
