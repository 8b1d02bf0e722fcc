"""A/B comparison: two revisions measured in interleaved processes on one machine."""
