"""T5 learns to read before anything is drawn, and is frozen then, as the published models' is.

At each noun of a caption its state tells what the caption says of that thing; at the end of an
instruction, what is to become what. Trained through the transformer instead, its attention, which
T5 does not scale, saturates and loses the order of words.
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

# What a noun's state tells of its thing, and the end of an instruction of the edit.
OF_A_THING = (tuple(SHAPES), tuple(COLOURS), tuple(RADII), tuple(BACKGROUNDS))
OF_AN_EDIT = (
    (*SHAPES, "background"),
    ("the", *COLOURS),
    (*COLOURS, *SHAPES, *BACKGROUNDS, "nothing"),
)
# A place is told by the sines and cosines of these many radians a side, x and y: rotary position
# embeddings turn image tokens in the same way, so that keys made of them find a place.
TURNS = (1.6, 3.2, 6.4)
PLACES = 4 * len(TURNS)
PLACE_WEIGHT = 3.0
CHECKED = 1_000


def train_reading(
    scenes: Sequence[Scene], edits: Sequence[Edit], tokenizer: Any, recipe: Recipe, run: Run
) -> Any:
    """A T5EncoderModel whose states tell what captions and instructions say."""
    t5, stage = _new_t5(len(tokenizer), run), recipe.reading
    width = MINI.t5["d_model"]
    of_a_thing = nn.Linear(width, _answers(OF_A_THING) + PLACES).to(run.device)
    of_an_edit = nn.Linear(width, _answers(OF_AN_EDIT)).to(run.device)

    def ids(texts: list[str]) -> Tensor:
        return token_ids(tokenizer, texts, MINI.max_text_tokens, run.device)

    captions = ids([scene.caption for scene in scenes])
    instructions = ids([edit.instruction for edit in edits])
    nouns, named = noun_positions(captions, tokenizer)
    ends = (instructions == tokenizer.eos_token_id).int().argmax(dim=1)
    things, places = (said.to(run.device) for said in _said_of_things(scenes))
    changes = torch.tensor([said_of_edit(edit.instruction) for edit in edits], device=run.device)

    def told_at_nouns(states: Tensor, rows: Tensor) -> Tensor:
        at_nouns = states.gather(1, nouns[rows, :, None].expand(-1, -1, width))
        told: Tensor = of_a_thing(at_nouns[named[rows]]).float()
        return told

    def loss(_: int, generator: torch.Generator) -> Tensor:
        rows = some(len(scenes), stage.batch_size, generator)
        edited = some(len(edits), stage.batch_size, generator)
        with run.autocast():
            states = t5(torch.cat([captions[rows], instructions[edited]])).last_hidden_state
            drawn, asked = states.split(stage.batch_size)
            told = told_at_nouns(drawn, rows)
            at_ends = asked.gather(1, ends[edited, None, None].expand(-1, -1, width))[:, 0]
            told_of_edit = of_an_edit(at_ends).float()
        misplaced = functional.mse_loss(told[:, -PLACES:], places[rows][named[rows]])
        return (
            _missed(told, things[rows][named[rows]], OF_A_THING)
            + _missed(told_of_edit, changes[edited], OF_AN_EDIT)
            + PLACE_WEIGHT * misplaced
        )

    networks = {"t5": t5, "of_a_thing": of_a_thing, "of_an_edit": of_an_edit}
    fit("reading", networks, loss, stage, run)
    first = torch.arange(min(len(scenes), CHECKED), device=run.device)
    with torch.no_grad(), run.autocast():
        told = told_at_nouns(t5(captions[first]).last_hidden_state, first)
    share = _right(told, things[first][named[first]], OF_A_THING)
    run.console.stage(f"reading: {share:.1%} of {len(first)} captions' things told right")
    return t5


def _answers(kinds: Sequence[Sequence[str]]) -> int:
    return sum(len(kind) for kind in kinds)


def _parts(told: Tensor, kinds: Sequence[Sequence[str]]) -> tuple[Tensor, ...]:
    """Each kind's answers, in the order of `told` [M, answers, and what comes after them]."""
    return torch.split(told[:, : _answers(kinds)], [len(kind) for kind in kinds], dim=1)


def _missed(told: Tensor, said: Tensor, kinds: Sequence[Sequence[str]]) -> Tensor:
    """Cross-entropies, summed, of each kind's part of `told`; `said`: [M, kinds]."""
    missed = [
        functional.cross_entropy(part, word)
        for part, word in zip(_parts(told, kinds), said.unbind(1), strict=True)
    ]
    return torch.stack(missed).sum()


def _right(told: Tensor, said: Tensor, kinds: Sequence[Sequence[str]]) -> float:
    """The share of the rows in which every kind's most likely word is the one that is said."""
    words = torch.stack([part.argmax(dim=1) for part in _parts(told, kinds)], dim=1)
    return (words == said).all(dim=1).float().mean().item()


def noun_positions(ids: Tensor, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Where the words for shapes stand in each text [N, 3], and which of these there are [N, 3]."""
    words = tokenizer.convert_tokens_to_ids([f"▁{shape}" for shape in SHAPES])
    is_noun = torch.isin(ids, torch.tensor(words, device=ids.device))
    order = torch.arange(ids.shape[1], 0, -1, device=ids.device)
    first, positions = (is_noun * order).topk(MOST_THINGS, dim=1)
    return positions, first > 0


def _said_of_things(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Of each scene's things: the numbers of its words [N, 3, 4] and its place [N, 3, 12]."""
    said = torch.zeros(len(scenes), MOST_THINGS, len(OF_A_THING), dtype=torch.long)
    centres = torch.zeros(len(scenes), MOST_THINGS, 2)
    for row, scene in enumerate(scenes):
        for column, thing in enumerate(scene.things):
            words = (thing.shape, thing.colour, thing.size, scene.background)
            said[row, column] = torch.tensor(_numbers(words, OF_A_THING))
        centres[row, : len(scene.things)] = torch.tensor(layout(scene.relations))
    turned = (centres[..., None] * torch.tensor(TURNS)).flatten(2)
    return said, torch.cat([turned.cos(), turned.sin()], dim=2)


def said_of_edit(instruction: str) -> list[int]:
    """The numbers of what is changed, of the word before it, and of what it becomes."""
    words = instruction.split()
    changed = next(i for i, word in enumerate(words) if word in OF_AN_EDIT[0])
    becomes = "nothing" if changed == len(words) - 1 else words[-1]
    return _numbers((words[changed], words[changed - 1], becomes), OF_AN_EDIT)


def _numbers(words: Sequence[str], kinds: Sequence[Sequence[str]]) -> list[int]:
    return [kind.index(word) for kind, word in zip(kinds, words, strict=True)]


def _new_t5(vocabulary: int, run: Run) -> Any:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(run.seed)
    shape = MINI.t5 | dict(vocab_size=vocabulary)
    config = T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **shape)
    return T5EncoderModel(config).to(run.device)
