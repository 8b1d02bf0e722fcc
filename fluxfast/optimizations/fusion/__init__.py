"""Fused projections and fused Triton kernels for the transformer blocks and the VAE."""
