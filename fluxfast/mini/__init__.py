"""The mini family: a small Flux that draws a made world, small enough for a laptop and for CI."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"


def is_trained() -> bool:
    """Whether the trained weights are here; until they are, the family has random ones."""
    return WEIGHTS.is_dir()
