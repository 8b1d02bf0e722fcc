"""Cases of one's own as a file holds them, to be mutated."""

EVERY_KEY = {
    "checkpoint": "my-dev",
    "prompt": ["a red circle", "two blue stars"],
    "resolution": [64, "64x96"],
    "batch_size": 2,
    "num_inference_steps": 3,
    "guidance_scale": 2.5,
    "optimizations": ["fused_projections", "sdpa"],
    "tolerances": {"eager_ratio": 0.3, "step_ms": 0.05},
}
LOSSLESS = {"checkpoint": "mini-schnell", "preset": "lossless"}
