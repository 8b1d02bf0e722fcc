"""Synthetic weights of Flux.1: pipelines of the published shape, filled from one seed."""
