"""One command of `fluxfast`, one file."""
