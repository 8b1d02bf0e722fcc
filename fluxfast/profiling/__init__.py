"""Profiles, traces, the roofline of a denoising step, and GPU telemetry."""
