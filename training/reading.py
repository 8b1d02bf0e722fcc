"""Train T5 to read before any image is generated, then freeze it, like the published models' T5.

At each noun of a caption, the state must contain the thing's words and place; at the end of an
instruction, what changes into what. T5 does not scale its attention. Trained through the
transformer instead, that attention saturates and loses the word order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fluxfast.mini.render import MOST_THINGS
from fluxfast.mini.world import BACKGROUNDS, COLOURS, RADII, SHAPES, Edit, Scene, layout
from fluxfast.models.architecture import MINI
from training.data import some, token_ids
from training.loop import Run, fit
from training.recipe import Recipe

# The targets at a noun of a caption, and at the end of an instruction.
THING_TARGETS = (tuple(SHAPES), tuple(COLOURS), tuple(RADII), tuple(BACKGROUNDS))
EDIT_TARGETS = (
    (*SHAPES, "background"),
    ("the", *COLOURS),
    (*COLOURS, *SHAPES, *BACKGROUNDS, "nothing"),
)
# A place is encoded as cosines and sines of x and y times these frequencies, in radians per side.
# RoPE rotates image tokens in the same way, so that attention keys of this form find a place.
FREQUENCIES = (1.6, 3.2, 6.4)
PLACES = 4 * len(FREQUENCIES)
PLACE_WEIGHT = 3.0
CHECKED = 1_000


def train_reading(
    scenes: Sequence[Scene], edits: Sequence[Edit], tokenizer: Any, recipe: Recipe, run: Run
) -> Any:
    """Return a T5EncoderModel whose states contain the content of captions and instructions."""
    t5, stage = _new_t5(len(tokenizer), run), recipe.reading
    width = MINI.t5["d_model"]
    of_a_thing = nn.Linear(width, _logits(THING_TARGETS) + PLACES).to(run.device)
    of_an_edit = nn.Linear(width, _logits(EDIT_TARGETS)).to(run.device)

    def ids(texts: list[str]) -> Tensor:
        return token_ids(tokenizer, texts, MINI.max_text_tokens, run.device)

    captions = ids([scene.caption for scene in scenes])
    instructions = ids([edit.instruction for edit in edits])
    nouns, named = noun_positions(captions, tokenizer)
    ends = (instructions == tokenizer.eos_token_id).int().argmax(dim=1)
    things, places = (targets.to(run.device) for targets in _thing_targets(scenes))
    changes = torch.tensor([edit_targets(edit.instruction) for edit in edits], device=run.device)

    def predict_at_nouns(states: Tensor, rows: Tensor) -> Tensor:
        at_nouns = states.gather(1, nouns[rows, :, None].expand(-1, -1, width))
        predicted: Tensor = of_a_thing(at_nouns[named[rows]]).float()
        return predicted

    def loss(_: int, generator: torch.Generator) -> Tensor:
        rows = some(len(scenes), stage.batch_size, generator)
        edited = some(len(edits), stage.batch_size, generator)
        with run.autocast():
            states = t5(torch.cat([captions[rows], instructions[edited]])).last_hidden_state
            caption_states, instruction_states = states.split(stage.batch_size)
            predicted = predict_at_nouns(caption_states, rows)
            at_ends = instruction_states.gather(1, ends[edited, None, None].expand(-1, -1, width))[
                :, 0
            ]
            edit_logits = of_an_edit(at_ends).float()
        misplaced = functional.mse_loss(predicted[:, -PLACES:], places[rows][named[rows]])
        return (
            _cross_entropy(predicted, things[rows][named[rows]], THING_TARGETS)
            + _cross_entropy(edit_logits, changes[edited], EDIT_TARGETS)
            + PLACE_WEIGHT * misplaced
        )

    networks = {"t5": t5, "of_a_thing": of_a_thing, "of_an_edit": of_an_edit}
    fit("reading", networks, loss, stage, run)
    first = torch.arange(min(len(scenes), CHECKED), device=run.device)
    with torch.no_grad(), run.autocast():
        predicted = predict_at_nouns(t5(captions[first]).last_hidden_state, first)
    share = _right(predicted, things[first][named[first]], THING_TARGETS)
    run.console.stage(f"reading: {share:.1%} of {len(first)} captions' things read correctly")
    return t5


def _logits(kinds: Sequence[Sequence[str]]) -> int:
    return sum(len(kind) for kind in kinds)


def _parts(predicted: Tensor, kinds: Sequence[Sequence[str]]) -> tuple[Tensor, ...]:
    """Split the logits of `predicted` [M, logits and further values] by target."""
    return torch.split(predicted[:, : _logits(kinds)], [len(kind) for kind in kinds], dim=1)


def _cross_entropy(predicted: Tensor, targets: Tensor, kinds: Sequence[Sequence[str]]) -> Tensor:
    """Return the sum of cross-entropies over the targets [M, kinds]."""
    losses = [
        functional.cross_entropy(part, word)
        for part, word in zip(_parts(predicted, kinds), targets.unbind(1), strict=True)
    ]
    return torch.stack(losses).sum()


def _right(predicted: Tensor, targets: Tensor, kinds: Sequence[Sequence[str]]) -> float:
    """Return the share of rows in which the most likely word of every kind is the target."""
    words = torch.stack([part.argmax(dim=1) for part in _parts(predicted, kinds)], dim=1)
    return (words == targets).all(dim=1).float().mean().item()


def noun_positions(ids: Tensor, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Return the positions of shape words in each text [N, 3], and which of them exist [N, 3]."""
    words = tokenizer.convert_tokens_to_ids([f"▁{shape}" for shape in SHAPES])
    is_noun = torch.isin(ids, torch.tensor(words, device=ids.device))
    order = torch.arange(ids.shape[1], 0, -1, device=ids.device)
    first, positions = (is_noun * order).topk(MOST_THINGS, dim=1)
    return positions, first > 0


def _thing_targets(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Return word indices [N, 3, 4] and encoded places [N, 3, 12] of each scene's things."""
    targets = torch.zeros(len(scenes), MOST_THINGS, len(THING_TARGETS), dtype=torch.long)
    centres = torch.zeros(len(scenes), MOST_THINGS, 2)
    for row, scene in enumerate(scenes):
        for column, thing in enumerate(scene.things):
            words = (thing.shape, thing.colour, thing.size, scene.background)
            targets[row, column] = torch.tensor(_numbers(words, THING_TARGETS))
        centres[row, : len(scene.things)] = torch.tensor(layout(scene.relations))
    angles = (centres[..., None] * torch.tensor(FREQUENCIES)).flatten(2)
    return targets, torch.cat([angles.cos(), angles.sin()], dim=2)


def edit_targets(instruction: str) -> list[int]:
    """Return the indices of the changed word, of the word before it, and of its new value."""
    words = instruction.split()
    changed = next(i for i, word in enumerate(words) if word in EDIT_TARGETS[0])
    becomes = "nothing" if changed == len(words) - 1 else words[-1]
    return _numbers((words[changed], words[changed - 1], becomes), EDIT_TARGETS)


def _numbers(words: Sequence[str], kinds: Sequence[Sequence[str]]) -> list[int]:
    return [kind.index(word) for kind, word in zip(kinds, words, strict=True)]


def _new_t5(vocabulary: int, run: Run) -> Any:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(run.seed)
    shape = MINI.t5 | dict(vocab_size=vocabulary)
    config = T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **shape)
    return T5EncoderModel(config).to(run.device)
