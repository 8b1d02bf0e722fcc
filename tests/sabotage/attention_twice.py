"""Every FlashAttention-3 call is made twice: right, in force, and slower."""

import fa3_fwd_interface

flash_attn_func = fa3_fwd_interface.flash_attn_func


def twice(*args, **kwargs):
    flash_attn_func(*args, **kwargs)
    return flash_attn_func(*args, **kwargs)


fa3_fwd_interface.flash_attn_func = twice
