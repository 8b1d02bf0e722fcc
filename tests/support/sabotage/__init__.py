"""Faults that are injected from outside.

`python -m pytest -p tests.support.sabotage.NAME perf_tests …` must fail.
"""
