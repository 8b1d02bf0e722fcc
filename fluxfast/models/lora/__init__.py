"""LoRA: read files of every common format, and merge them into the transformer's weights."""
