"""The training program of the mini family: `python -m training --output DIR`."""
