"""torch.compile of the repeated transformer blocks: two classes are compiled, not 57 blocks."""

from fluxfast.compiler import compile_proof, dynamic_shapes
from fluxfast.optimization import Axis, Build, Optimization


def apply(build: Build) -> None:
    dynamic = dynamic_shapes(build.situation.hardware)
    build.pipeline.transformer.compile_repeated_blocks(fullgraph=True, dynamic=dynamic)


OPTIMIZATION = Optimization(
    name="regional",
    axis=Axis.COMPILE,
    summary="torch.compile of the repeated blocks",
    apply=apply,
    proof=compile_proof,
    on_by_default=lambda hardware: True,
)
