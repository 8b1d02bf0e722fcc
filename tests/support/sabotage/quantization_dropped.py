"""Disable torchao's quantization: a requested optimization is silently not applied."""

import torchao.quantization

torchao.quantization.quantize_ = lambda *args, **kwargs: None
