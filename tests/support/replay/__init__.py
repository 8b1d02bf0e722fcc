"""Replay recorded samples: how often the gate detects a slowdown, and how often it is wrong.

`python -m tests.support.replay` simulates at full size and writes the tables of
docs/explanation/gate-error-rates.md.
"""
