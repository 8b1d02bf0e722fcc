"""Descriptions of machines, for tests that plan cases for them; nothing runs on them."""

from fluxfast.hardware import Hardware, Platform
from fluxfast.models.spec import DEV, default_request
from fluxfast.optimizations.situation import Situation

EVERYTHING = dict.fromkeys(
    ("torch", "diffusers", "torchao", "cache-dit", "fa3-fwd", "amd-aiter", "triton"), "1"
)


def machine(platform: Platform, name: str, architecture: str, **changes) -> Hardware:
    return Hardware(
        **{
            "platform": platform,
            "name": name,
            "architecture": architecture,
            "memory_gib": 79.2,
            "packages": EVERYTHING,
            **changes,
        }
    )


CPU = machine(Platform.CPU, "a CPU", "x86_64-avx2", cores=2)
A100 = machine(Platform.CUDA, "NVIDIA A100-SXM4-80GB", "sm_80")
L20 = machine(Platform.CUDA, "NVIDIA L20", "sm_89", memory_gib=44.5)
H100 = machine(Platform.CUDA, "NVIDIA H100 80GB HBM3", "sm_90")
H200 = machine(Platform.CUDA, "NVIDIA H200", "sm_90", memory_gib=139.8)
B200 = machine(Platform.CUDA, "NVIDIA B200", "sm_100")
MI300X = machine(Platform.ROCM, "AMD Instinct MI300X", "gfx942", memory_gib=191.7)
MI250 = machine(Platform.ROCM, "AMD Instinct MI250X", "gfx90a")


def situation(hardware, model=DEV, cache_config=None, **changes):
    """Return the model card's request for 1024×1024 pixels on a machine."""
    request = default_request(model, side=1024, **changes)
    return Situation(model=model, hardware=hardware, request=request, cache_config=cache_config)
