"""The axes: the decisions that optimizations make."""

from __future__ import annotations

from enum import StrEnum


class Axis(StrEnum):
    """The decision that an optimization makes; a plan holds at most one optimization per axis.

    The members are in the order in which people add optimizations; case ids and the cumulative
    ablation follow it.
    """

    DTYPE = "dtype"
    PARALLEL = "parallel"
    PROJECTIONS = "projections"
    ATTENTION = "attention"
    MEMORY_FORMAT = "memory_format"
    CACHE = "cache"
    QUANTIZATION = "quantization"
    COMPILER_FLAGS = "compiler_flags"
    COMPILE = "compile"
    NORMS = "norms"
    ROTARY = "rotary"
    ACTIVATION = "activation"
    MODULATION = "modulation"
    DECODER = "decoder"
    IMAGES = "images"
    ENCODER = "encoder"
    HOST = "host"
    GRAPH = "graph"
    GUIDANCE = "guidance"
    MEMORY = "memory"


# Decisions about the pipeline around its transformer: processes that only share the transformer's
# work do not make them.
AROUND_THE_TRANSFORMER = frozenset(
    {
        Axis.MEMORY_FORMAT,
        Axis.DECODER,
        Axis.IMAGES,
        Axis.ENCODER,
        Axis.HOST,
        Axis.GUIDANCE,
        Axis.MEMORY,
    }
)

# Decisions that are made while weights may still be in host memory: those that make them smaller,
# and what comes before.
BEFORE_THE_DEVICE = frozenset(
    {
        Axis.DTYPE,
        Axis.PARALLEL,
        Axis.PROJECTIONS,
        Axis.ATTENTION,
        Axis.MEMORY_FORMAT,
        Axis.CACHE,
        Axis.QUANTIZATION,
        Axis.MEMORY,
    }
)
