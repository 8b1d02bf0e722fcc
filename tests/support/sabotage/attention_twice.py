"""Every FlashAttention-3 call is made twice: right, in force, and slower."""

import fa3_fwd_interface

OPERATORS = fa3_fwd_interface.fa3_fwd_cuda


class Twice:
    """In an operator's place, with all else that it has: the compiler goes through all of them."""

    def __init__(self, operator):
        self.operator = operator

    def __call__(self, *args, **kwargs):
        self.operator(*args, **kwargs)
        return self.operator(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.operator, name)


OPERATORS.fwd = Twice(OPERATORS.fwd)
