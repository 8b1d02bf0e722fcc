"""The mini family: small Flux models of a synthetic world, which run on a laptop and in CI."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
