"""Faults put in from outside, to see that the suite reports them: `python -m pytest -p tests.sabotage.NAME …`."""
