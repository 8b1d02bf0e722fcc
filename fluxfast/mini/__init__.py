"""The mini family: a small Flux that draws a made world, small enough for a laptop and for CI."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
