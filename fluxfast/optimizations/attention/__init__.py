"""Attention kernels behind custom operators."""
