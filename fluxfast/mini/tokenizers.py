"""Tokenizers of the mini family: CLIP's and T5's own classes with the mini world's words."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

CLIP_TOKENS = 77
CLIP_MERGES = 160
LETTER_SCORE = -20.0  # far below any word's log frequency
PRINTABLE = [chr(code) for code in range(33, 127)]


def clip_tokenizer(texts: Sequence[str]) -> Any:
    """Return a CLIPTokenizer with merges learned from `texts`; bytes spell every other word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=CLIP_MERGES + 100,  # more than the letters, so that merges remain
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    pieces += [first + second for first, second in merges]
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=merges,
        model_max_length=CLIP_TOKENS,
    )


def t5_tokenizer(texts: Sequence[str], max_length: int) -> Any:
    """Return a T5Tokenizer whose pieces are the words of `texts`; letters spell other words."""
    from transformers import T5Tokenizer

    words = Counter(f"▁{word}" for text in texts for word in text.split())
    pieces = [(word, math.log(count / words.total())) for word, count in sorted(words.items())]
    letters = [(letter, LETTER_SCORE) for letter in ("▁", *PRINTABLE)]
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(
        vocab=[*specials, *pieces, *letters], extra_ids=0, model_max_length=max_length
    )
