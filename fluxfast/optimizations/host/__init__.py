"""Less work for the host between kernels."""
