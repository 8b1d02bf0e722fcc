"""Caches that skip denoising steps."""
