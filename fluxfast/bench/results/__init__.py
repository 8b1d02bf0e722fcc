"""Results of one process: raw samples on disk, their provenance, artifacts and summaries."""
