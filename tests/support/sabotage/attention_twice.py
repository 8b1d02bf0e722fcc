"""Call FlashAttention-3 twice each time: correct images, active optimization, slower steps."""

import fa3_fwd_interface

OPERATORS = fa3_fwd_interface.fa3_fwd_cuda


class Twice:
    """Replace an operator and keep its other attributes, which the compiler inspects."""

    def __init__(self, operator):
        self.operator = operator

    def __call__(self, *args, **kwargs):
        self.operator(*args, **kwargs)
        return self.operator(*args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.operator, name)


OPERATORS.fwd = Twice(OPERATORS.fwd)
