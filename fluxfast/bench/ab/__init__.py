"""A/B comparison: two revisions or environments, in interleaved processes on one machine."""
