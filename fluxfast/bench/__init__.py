"""Benchmarks: cases, measurement, results, verdicts, baselines and A/B comparisons."""
