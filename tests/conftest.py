"""Triton reads this where it is first imported, which any test may do: without a GPU, interpret."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
