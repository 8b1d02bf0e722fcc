"""FluxFast: the optimization stack for Flux.1 and the performance-regression suite guarding it."""

__version__ = "0.1.0"
