"""T5 learns to read before anything is drawn: at each noun, what its caption says of the thing.

A text encoder from nothing learns this from pictures a hundred times more slowly, and till then
the transformer has no use for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxfast.architecture import MINI
from fluxfast.mini.render import MOST_THINGS
from fluxfast.mini.train.data import some, token_ids
from fluxfast.mini.train.loop import Run, fit
from fluxfast.mini.train.recipe import Recipe
from fluxfast.mini.world import BACKGROUNDS, COLOURS, RADII, SHAPES, Scene, layout

KINDS = (tuple(SHAPES), tuple(COLOURS), tuple(RADII), tuple(BACKGROUNDS))
# A place is told by the sines and cosines of these many radians a side, x and y: rotary position
# embeddings turn image tokens in the same way, so that keys made of them find a place.
TURNS = (1.6, 3.2, 6.4)
PLACE_WEIGHT = 3.0


def train_reading(scenes: Sequence[Scene], tokenizer: Any, recipe: Recipe, run: Run) -> Any:
    """A T5EncoderModel whose state at each shape's word tells shape, colour, size, background and
    place of the thing that it names."""
    t5, stage = _new_t5(len(tokenizer), run), recipe.reading
    answers = sum(map(len, KINDS)) + 4 * len(TURNS)
    tell = nn.Linear(MINI.t5["d_model"], answers).to(run.device)
    ids = token_ids(tokenizer, [s.caption for s in scenes], MINI.max_text_tokens, run.device)
    nouns, named = _nouns(ids, tokenizer)
    kinds, places = (answer.to(run.device) for answer in _answers(scenes))

    def loss(_: int, generator: torch.Generator) -> Tensor:
        rows = some(len(scenes), stage.batch_size, generator)
        with run.autocast():
            states = t5(ids[rows]).last_hidden_state
            picked = states.gather(1, nouns[rows, :, None].expand(-1, -1, states.shape[2]))
            told = tell(picked[named[rows]])
        *answers, place = told.float().split([*map(len, KINDS), 4 * len(TURNS)], dim=1)
        right, lies = kinds[rows][named[rows]], places[rows][named[rows]]
        value = PLACE_WEIGHT * functional.mse_loss(place, lies)
        for answer, kind in zip(answers, right.unbind(1), strict=True):
            value = value + functional.cross_entropy(answer, kind)
        return value

    fit("reading", {"t5": t5, "tell": tell}, loss, stage, run)
    return t5


def _nouns(ids: Tensor, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Where the words for shapes stand in each text [N, 3], and which of these there are [N, 3]."""
    words = tokenizer.convert_tokens_to_ids([f"▁{shape}" for shape in SHAPES])
    is_noun = torch.isin(ids, torch.tensor(words, device=ids.device))
    order = torch.arange(ids.shape[1], 0, -1, device=ids.device)
    first, positions = (is_noun * order).topk(MOST_THINGS, dim=1)
    return positions, first > 0


def _answers(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Of each scene's things: the numbers of its kinds [N, 3, 4] and its place [N, 3, 12]."""
    kinds = torch.zeros(len(scenes), MOST_THINGS, len(KINDS), dtype=torch.long)
    centres = torch.zeros(len(scenes), MOST_THINGS, 2)
    for row, scene in enumerate(scenes):
        for column, thing in enumerate(scene.things):
            said = (thing.shape, thing.colour, thing.size, scene.background)
            kinds[row, column] = torch.tensor(
                [kind.index(word) for kind, word in zip(KINDS, said, strict=True)]
            )
        centres[row, : len(scene.things)] = torch.tensor(layout(scene.relations))
    turned = (centres[..., None] * torch.tensor(TURNS)).flatten(2)
    return kinds, torch.cat([turned.cos(), turned.sin()], dim=2)


def _new_t5(vocabulary: int, run: Run) -> Any:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(run.seed)
    shape = MINI.t5 | dict(vocab_size=vocabulary)
    config = T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **shape)
    return T5EncoderModel(config).to(run.device)
