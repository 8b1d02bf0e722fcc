"""Build an optimized pipeline from a plan, call it, observe its stages, and undo it."""
