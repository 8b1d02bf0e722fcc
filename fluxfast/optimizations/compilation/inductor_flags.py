"""flux-fast's four Inductor flags.

With them Inductor computes 1×1 convolutions as GEMMs, fuses no epilogues into GEMMs, and tunes its
kernels by coordinate descent in all directions.
"""

from __future__ import annotations

from fluxfast.hardware import Hardware
from fluxfast.optimizations.base import Axis, Build, Evidence, Optimization, Proof

FLAGS = {
    "conv_1x1_as_mm": True,
    "epilogue_fusion": False,
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": True,
}


def apply(build: Build) -> None:
    """Set the flags until the pipeline is closed."""
    from torch._inductor import config

    build.undo.enter_context(config.patch(FLAGS))


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active if all four flags are set."""
    from torch._inductor import config

    wrong = [name for name, value in FLAGS.items() if getattr(config, name) != value]
    detail = f"not set: {', '.join(wrong)}" if wrong else "all four flags are set"
    return Proof(is_active=not wrong, detail=detail)


def slow_to_build(hardware: Hardware) -> str | None:
    """Return why a build with these flags is slow on this hardware, or None."""
    if hardware.is_gpu:
        return "regions compile in 170 s with coordinate descent, in 15 without (one H200)"
    return None


OPTIMIZATION = Optimization(
    name="inductor_flags",
    axis=Axis.COMPILER_FLAGS,
    summary="flux-fast's four Inductor flags",
    apply=apply,
    proof=proof,
    requires={Axis.COMPILE: "without a compiler the flags have no effect"},
    on_by_default=lambda hardware: not hardware.is_gpu,
    slow_to_build=slow_to_build,
    used_by=("flux-fast",),
    option="enable_inductor_tuning_flags",
)
