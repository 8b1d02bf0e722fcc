"""Every FlashAttention-3 call is made twice: right, in force, and slower."""

import fa3_fwd_interface

OPERATORS = fa3_fwd_interface.fa3_fwd_cuda
fwd = OPERATORS.fwd


def twice(*args, **kwargs):
    fwd(*args, **kwargs)
    return fwd(*args, **kwargs)


OPERATORS.fwd = twice
