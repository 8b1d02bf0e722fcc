"""Recorded samples, replayed: how often the verdict sees a slowdown, and how often it is wrong.

`python -m tests.support.replay` simulates at full size and writes the tables of docs/verdict.md.
"""
