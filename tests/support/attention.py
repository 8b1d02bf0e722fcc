"""Attention in float32, and stand-ins for attention kernels that only run on a GPU."""

import sys
import types

import torch
import torch.nn.functional as F


def float32_attention(query, key, value):
    heads_first = (tensor.float().transpose(1, 2) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(*heads_first).transpose(1, 2).contiguous()


def fa3_fwd(query, key, value, *, out, num_splits):
    """Stand in for the operator that both distributions of FlashAttention-3 register."""
    assert out.stride(-1) == 1 and num_splits == 1
    out.copy_(float32_attention(query, key, value))


def install_fake_kernels(monkeypatch):
    """Install stand-ins with the interfaces of FlashAttention-3 and AITER, which need a GPU."""

    def flash_attn_func(query, key, value):
        return float32_attention(query, key, value).to(torch.bfloat16), None

    def flash_attn_fp8_func(query, key, value):
        return float32_attention(query, key, value)

    fa3_module = types.ModuleType("fa3_fwd_interface")
    fa3_module.flash_attn_func = flash_attn_func
    fa3_module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "fa3_fwd_interface", fa3_module)
    monkeypatch.setattr(torch.ops, "fa3_fwd", types.SimpleNamespace(fwd=fa3_fwd))
    for name in ("aiter", "aiter.ops", "aiter.ops.triton", "aiter.ops.triton.mha"):
        module = types.ModuleType(name)
        module.__spec__, module.__path__ = types.SimpleNamespace(), []
        module.flash_attn_fp8_func = flash_attn_fp8_func
        monkeypatch.setitem(sys.modules, name, module)
