"""Faults put in from outside: `python -m pytest -p tests.sabotage.NAME perf_tests …` must fail."""
