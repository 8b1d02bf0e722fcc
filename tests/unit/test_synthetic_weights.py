"""Synthetic weights of the published depth at a small width: rounding changes little, inputs do."""

from dataclasses import replace

import pytest
import torch

from benchmarks.weights import NARROW, encoded, relative, step, trajectory, weakened
from fluxfast.models.spec import DEV, default_request
from fluxfast.models.synthetic.pipeline import assemble
from fluxfast.models.synthetic.profiles import Profile
from fluxfast.models.weights import WeightsKind

# One head of 128 channels; the channels of a feature average less than at the published width.
ONE_HEAD = replace(NARROW, transformer=NARROW.transformer | dict(num_attention_heads=1))
MOST_ROUNDING = 0.02
# A short prompt at 64×64: 16 image tokens, 32 of text.
REQUEST = default_request(DEV, side=64, max_text_tokens=32, num_inference_steps=1)


@pytest.fixture(scope="module")
def pipeline():
    pipeline = assemble(DEV, torch.bfloat16, "cpu", Profile.TRAINED, ONE_HEAD)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def test_rounding_changes_little_and_other_inputs_change_much(pipeline):
    """At the published depth: 24 layers of T5, 19 double and 38 single blocks."""
    (inputs,), _ = trajectory(pipeline, REQUEST)
    embeds, found = encoded(pipeline, REQUEST)[0], step(pipeline, inputs)
    middle = pipeline.transformer.single_transformer_blocks[19]
    with weakened(middle):
        weaker = relative(step(pipeline, inputs), found)
    noise = {"hidden_states": torch.randn_like(inputs["hidden_states"])}
    reseeded = relative(step(pipeline, inputs | noise), found)
    pipeline.to(torch.float32)
    assert relative(embeds, encoded(pipeline, REQUEST)[0]) < MOST_ROUNDING
    rounding = relative(found, step(pipeline, inputs))
    assert rounding < MOST_ROUNDING and weaker > 0.5 * rounding
    assert reseeded > 0.1 and found.float().std() > 0.1


def test_weights_follow_from_the_seed_and_the_name_alone():
    """So they are equal for every dtype; a tensor does not depend on the others."""
    small = NARROW.transformer | dict(num_layers=1, num_single_layers=1)
    one_layer = {
        "t5": NARROW.t5 | dict(num_layers=1),
        "clip": NARROW.clip | dict(num_hidden_layers=1),
    }
    shape = replace(NARROW, transformer=small, **one_layer)
    half, whole = (
        assemble(DEV, dtype, "cpu", Profile.OUTLIERS, shape).transformer.state_dict()
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert all(torch.equal(half[name].float(), whole[name]) for name in whole)
    rows = whole["single_transformer_blocks.0.proj_mlp.weight"].norm(dim=1)
    assert rows.max() > 6 * rows.median()  # hot rows
    assert all(tensor.isfinite().all() and tensor.any() for tensor in whole.values())


def test_each_kind_of_synthetic_weights_has_a_profile_of_its_own():
    profiles = [kind.profile for kind in WeightsKind if kind.value.startswith("synthetic")]
    assert profiles == [Profile.TRAINED, Profile.OUTLIERS] and WeightsKind.MINI.profile is None
