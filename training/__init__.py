"""The program that trains the mini family: `python -m training --output DIR`."""
