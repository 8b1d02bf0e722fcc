"""Baselines: one file per GPU, and the checks before results are accepted into one."""
