"""One image divided between several GPUs."""
