"""Find the words of a prompt that a pipeline does not read; its tokenizers drop them silently."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

LONGEST_QUOTE = 120  # characters of a prompt in a line
PROMPTS = (("prompt", "prompt_2"), ("negative_prompt", "negative_prompt_2"))  # for CLIP, for T5


class DroppedTextWarning(UserWarning):
    """A part of a prompt is not read by a text encoder."""


def dropped_text(
    pipeline: Any, prompt: str, max_sequence_length: int, prompt_2: str | None = None
) -> tuple[str, ...]:
    """Return what the text encoders do not read of a prompt, one line for each kind of loss.

    T5 reads the prompt into the tokens of the text. CLIP reads it into one pooled vector.

    Args:
        pipeline: a Flux.1 pipeline; an encoder whose tokenizer it lacks is passed over.
        prompt: the prompt.
        max_sequence_length: T5 tokens that the pipeline is called with.
        prompt_2: the prompt of T5; None for the same one.
    """
    lines = []
    if t5 := pipeline.tokenizer_2:
        text = prompt_2 or prompt
        if cut := _cut(t5, text, max_sequence_length):
            lines.append(f"the prompt is longer than {max_sequence_length} tokens, not read: {cut}")
        if unknown := _unknown(t5, text):
            lines.append(f"not in the vocabulary of the text encoder, not read: {unknown}")
    if clip := pipeline.tokenizer:
        longest = clip.model_max_length
        if cut := _cut(clip, prompt, longest):
            lines.append(
                f"the prompt is longer than CLIP's {longest} tokens; its pooled vector lacks: {cut}"
            )
    return tuple(lines)


def warn_of_dropped_text(pipeline: Any, call: Mapping[str, Any]) -> None:
    """Warn of what the text encoders will not read of the prompts of a pipeline call.

    Args:
        pipeline: a Flux.1 pipeline.
        call: the arguments of the call by name, defaults included.
    """
    for for_clip, for_t5 in PROMPTS:
        prompts = _texts(call.get(for_clip))
        prompts_2 = _texts(call.get(for_t5)) or prompts
        for prompt, prompt_2 in zip(prompts, prompts_2, strict=False):
            longest = call["max_sequence_length"]
            for line in dropped_text(pipeline, prompt, longest, prompt_2):
                warnings.warn(line, DroppedTextWarning, stacklevel=3)


def _texts(value: Any) -> list[str]:
    """Return the prompts of an argument: none, one, or a list of them."""
    return [value] if isinstance(value, str) else list(value or [])


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
