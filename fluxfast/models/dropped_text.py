"""Find the words of a prompt that a pipeline does not read; its tokenizers drop them silently."""

from __future__ import annotations

from typing import Any

LONGEST_QUOTE = 120  # characters of a prompt in a line


def dropped_text(pipeline: Any, prompt: str, max_sequence_length: int) -> tuple[str, ...]:
    """Return what the text encoders do not read of a prompt, one line for each kind of loss.

    T5 reads the prompt into the tokens of the text. CLIP reads it into one pooled vector.

    Args:
        pipeline: a Flux.1 pipeline with its tokenizers.
        prompt: the prompt.
        max_sequence_length: T5 tokens that the pipeline is called with.
    """
    lines = []
    if cut := _cut(pipeline.tokenizer_2, prompt, max_sequence_length):
        lines.append(f"the prompt is longer than {max_sequence_length} tokens, not read: {cut}")
    if unknown := _unknown(pipeline.tokenizer_2, prompt):
        lines.append(f"not in the vocabulary of the text encoder, not read: {unknown}")
    longest = pipeline.tokenizer.model_max_length
    if cut := _cut(pipeline.tokenizer, prompt, longest):
        lines.append(
            f"the prompt is longer than CLIP's {longest} tokens; its pooled vector lacks: {cut}"
        )
    return tuple(lines)


def _cut(tokenizer: Any, prompt: str, longest: int) -> str | None:
    """Return the end of a prompt that does not fit; the last token is kept for the end of text."""
    tokens = tokenizer(prompt, truncation=False, verbose=False).input_ids
    if len(tokens) <= longest:
        return None
    return _quoted(tokenizer.decode(tokens[longest - 1 : -1]))


def _unknown(tokenizer: Any, prompt: str) -> str | None:
    """Return the words that become unknown tokens, each once."""
    words = dict.fromkeys(prompt.split())
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None:
        return None
    strange = [word for word in words if unknown in tokenizer(word, verbose=False).input_ids]
    return ", ".join(map(_quoted, strange)) or None


def _quoted(text: str) -> str:
    shown = text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 2]} …"
    return f"“{shown.strip()}”"
