"""Mutated checkpoint configurations: an error that can be acted on, or the right model."""

import inspect
import json
import shutil

import pytest
from diffusers import FluxTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxfast.errors import FluxFastError
from fluxfast.mini import WEIGHTS
from fluxfast.models import completeness
from fluxfast.models.completeness import check_checkpoint
from fluxfast.models.configuration import read_configuration
from fluxfast.models.recognition import PIPELINES

INDEX = "model_index.json"
TRANSFORMER = "transformer/config.json"
SCHEDULE = "scheduler/scheduler_config.json"
FILES = (INDEX, TRANSFORMER, SCHEDULE, "vae/config.json", "text_encoder_2/config.json")
WHOLE = {file: json.loads((WEIGHTS / "mini-dev" / file).read_text()) for file in FILES}
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(FluxTransformer2DModel.__init__).parameters.items()
    if name != "self"
}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 3, 4, 64, 128, 131, 10**9, 10**30]),
    st.sampled_from([0.5, -0.5, 1e308, float("nan"), float("inf")]),
    st.sampled_from(["", "true", "128", "diffusers", "FluxPipeline", "exponential", "linear"]),
    st.sampled_from(PIPELINES),
    st.lists(st.sampled_from([16, 56, "diffusers", "os", "FluxPipeline", None]), max_size=3),
    st.sampled_from([{}, {"a": 1}, [[]], ["diffusers", "AutoencoderKL"]]),
)
DAMAGE = st.sampled_from([b"", b"\xff", b"{", b"[" * 20_000, b"]", b'"', b"null", b"\0"])


@st.composite
def mutated_files(draw):
    """Return the name of a configuration file and its content after up to three changes."""
    file = draw(st.sampled_from(FILES))
    content = dict(WHOLE[file])
    for key in draw(st.lists(st.sampled_from(sorted(content)), min_size=1, max_size=2)):
        if draw(st.booleans()):
            content[key] = draw(VALUES)
        else:
            content.pop(key, None)
    content |= draw(
        st.dictionaries(st.sampled_from(["auto_map", "dtype", "x"]), VALUES, max_size=1)
    )
    text = json.dumps(content).encode()
    if draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(0, len(text)))
        text = text[:place] + draw(DAMAGE) + text[place + draw(st.integers(0, 9)) :]
    return file, text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a copy of mini-dev; a network whose configuration is unchanged is checked once."""
    check, passed = completeness._check_network, {}

    def check_changed(component, network_class):
        config = (component / "config.json").read_bytes()
        if (component, config) not in passed:
            passed[component, config] = check(component, network_class)
        return passed[component, config]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completeness, "_check_network", check_changed)
        yield shutil.copytree(WEIGHTS / "mini-dev", tmp_path_factory.mktemp("mutated") / "copy")


def shape(config):
    """Return what a transformer's configuration means, defaults included."""
    meant = {name: config.get(name, default) for name, default in DEFAULTS.items()}
    meant["axes_dims_rope"] = tuple(meant["axes_dims_rope"])
    return meant | {"out_channels": meant["out_channels"] or meant["in_channels"]}


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(mutated=mutated_files())
@pytest.mark.slow
def test_a_mutated_checkpoint_is_refused_or_the_right_model(mutated, folder):
    file, text = mutated
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(text)
    try:
        configuration = read_configuration(str(folder))
        check_checkpoint(folder, configuration)
    except FluxFastError as error:
        assert error.problem and error.remedy
        return
    finally:
        (folder / file).write_bytes(whole)
    config = json.loads(text)
    model = configuration.model
    assert model.guidance_embeds and model.name in ("dev", "kontext")
    if file == INDEX:
        assert model.pipeline_class == config["_class_name"]
    if file == TRANSFORMER:
        assert shape(config) == shape(WHOLE[TRANSFORMER])
