"""Triton kernels for the memory-bound part of a Flux block: rows are read once and written once.

Tensors are (batch, tokens, channels) or (batch, tokens, heads, head_dim); only the last dimension
needs to be contiguous. Arithmetic is float32, results are rounded once. A row in fp8 comes with one
float32 scale, as `torch._scaled_mm` takes it: value = fp8 · scale.

Every function is a custom operator: compilers, exports and CUDA graphs see one opaque node.
Importing the modules of this folder imports Triton, so that is left to who uses them.
"""
