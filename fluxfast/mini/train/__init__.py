"""The program that trains the mini family: `python -m fluxfast.mini.train --output DIR`."""
