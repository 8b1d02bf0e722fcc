"""The four inductor flags of flux-fast.

Matrix products for 1×1 convolutions, no fused epilogues, coordinate descent.
"""

from torch._inductor import config

from fluxfast.hardware import Hardware
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof

FLAGS = {
    "conv_1x1_as_mm": True,
    "epilogue_fusion": False,
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": True,
}


def apply(build: Build) -> None:
    build.undo.enter_context(config.patch(FLAGS))


def proof(evidence: Evidence) -> Proof:
    wrong = [name for name, value in FLAGS.items() if getattr(config, name) != value]
    return Proof(
        in_force=not wrong, seen=f"{wrong or 'all four flags'} {'not ' if wrong else ''}set"
    )


def slow_to_build(hardware: Hardware) -> str | None:
    if hardware.is_gpu:
        return "regions compile in 170 s with coordinate descent, in 15 without (one H200)"
    return None


OPTIMIZATION = Optimization(
    name="inductor_flags",
    axis=Axis.COMPILER_FLAGS,
    summary="flux-fast's four inductor flags",
    apply=apply,
    proof=proof,
    needs={Axis.COMPILE: "there is no compiler to flag without"},
    on_by_default=lambda hardware: not hardware.is_gpu,
    slow_to_build=slow_to_build,
)
