"""torch.compile of the repeated transformer blocks: two classes are compiled, not 57 blocks."""

from fluxfast.compiler import compiled_blocks_proof, dynamic_shapes
from fluxfast.optimization import Axis, Build, Evidence, Optimization, Proof


def apply(build: Build) -> None:
    dynamic = dynamic_shapes(build.situation.hardware)
    build.pipeline.transformer.compile_repeated_blocks(fullgraph=True, dynamic=dynamic)


def proof(evidence: Evidence) -> Proof:
    transformer = evidence.pipeline.transformer
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    return compiled_blocks_proof(evidence, blocks)


OPTIMIZATION = Optimization(
    name="regional",
    axis=Axis.COMPILE,
    summary="torch.compile of the repeated blocks",
    apply=apply,
    proof=proof,
    on_by_default=lambda hardware: True,
)
