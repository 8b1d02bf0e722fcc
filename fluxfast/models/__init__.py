"""The Flux.1 models: specifications, architectures, weights, arguments of a pipeline call."""
