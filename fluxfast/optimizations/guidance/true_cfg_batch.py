"""Both passes of true classifier-free guidance as one batch of two, where the images are small.

A pass over few tokens leaves multiprocessors without work. Pipelines of diffusers call the
transformer for each pass; how two calls become one is described in `_both_passes.py`.
"""

from __future__ import annotations

from typing import Any

from fluxfast.hardware import Hardware, Platform
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build, Evidence, Optimization, Proof
from fluxfast.optimizations.situation import Situation

# The pipelines of diffusers 0.42 with `true_cfg_scale`, without those of a ControlNet, which adds
# its own residuals to each pass.
PIPELINES = (
    "FluxPipeline",
    "FluxImg2ImgPipeline",
    "FluxInpaintPipeline",
    "FluxKontextPipeline",
    "FluxKontextInpaintPipeline",
)


def apply(build: Build) -> None:
    """Let calls of the transformer go through an object that knows both passes of a step."""
    from fluxfast.optimizations.guidance._both_passes import BothPasses, calling_both_passes

    transformer: Any = build.pipeline.transformer
    transformer.both_passes = BothPasses()
    transformer.__class__ = calling_both_passes(type(transformer))
    build.on_new_weights.append(transformer.both_passes.forget)


def proof(evidence: Evidence) -> Proof:
    """Return a proof: active unless every batch was in vain; without true CFG there is none."""
    passes: Any = getattr(evidence.pipeline.transformer, "both_passes", None)
    if passes is None:
        return Proof(is_active=False, detail="the transformer is called for each pass")
    detail = f"{passes.answered} second passes computed with the first, {passes.missed} in vain"
    return Proof(is_active=passes.answered > 0 or not passes.missed, detail=detail)


def why_unsupported_request(situation: Situation) -> str | None:
    """Return why the calls have no two passes that could be computed together, or None."""
    if situation.loaded is None:
        return "a request has no negative prompt; fluxfast.optimize() takes calls that have one"
    if situation.loaded.pipeline_class not in PIPELINES:
        return f"{situation.loaded.pipeline_class} has no two passes that are alike"
    return None


def on_by_default(hardware: Hardware) -> bool:
    """Return whether the gain was measured on this platform."""
    return hardware.platform is Platform.CUDA


OPTIMIZATION = Optimization(
    name="true_cfg_batch",
    axis=Axis.GUIDANCE,
    summary="both passes of true CFG as one batch of two",
    apply=apply,
    proof=proof,
    why_unsupported_request=why_unsupported_request,
    conflicts={
        "dbcache": "each pass has a cache of its own",
        "export_aoti": "a package is of one batch size",
    },
    on_by_default=on_by_default,
)
