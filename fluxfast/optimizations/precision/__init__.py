"""Data types of weights and activations: bfloat16, fp8, int8."""
