"""Measurement of one case: warm-up, sampling, counters, canaries, injected faults."""
