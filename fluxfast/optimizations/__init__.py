"""Optimizations: one file each, grouped by kind. README.md explains how they work."""
