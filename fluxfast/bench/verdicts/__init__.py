"""Verdicts: metrics, the noise model, runner checks, outcomes and tables. No torch."""
