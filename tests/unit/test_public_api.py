"""The public API of `import fluxfast`."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import fluxfast

LIGHT = ("cli.main", "cli.matrix", "hardware", "api.load", "pytest_plugin.plugin",
         "bench.measurement", "bench.ab.process", "optimizations.registry")  # fmt: skip
LIGHT_PACKAGES = ("bench.cases", "bench.results", "bench.baselines", "bench.verdicts", "history",
                  "report")  # fmt: skip


def test_every_public_name_is_exported_and_typed():
    tree = ast.parse(Path(fluxfast.__file__).read_text())
    typed = {a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
             for a in node.names if node.module.startswith("fluxfast.")}  # fmt: skip
    assert typed == set(fluxfast.__all__) - {"__version__"}
    assert dir(fluxfast) == sorted(fluxfast.__all__)
    for name in fluxfast.__all__:
        assert getattr(fluxfast, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        fluxfast.optimise  # noqa: B018


def test_the_optimizations_are_listed_with_their_facts():
    listed = {o.name: o for o in fluxfast.list_optimizations()}
    assert listed["fused_projections"].summary and not listed["fused_projections"].is_lossy
    assert listed["dbcache"].is_lossy


@pytest.mark.parametrize("preset", ["default", "lossless", "eager"])
def test_a_plan_of_a_preset_is_valid_on_this_machine(preset):
    plan = fluxfast.plan("dev", preset=preset, device="cpu", num_inference_steps=2)
    assert plan.situation.request.num_inference_steps == 2
    assert bool(plan.names) == (preset != "eager")
    if preset == "lossless":
        assert not any(o.is_lossy for o in plan.optimizations)


def test_a_plan_of_named_optimizations_has_these():
    assert fluxfast.plan("schnell", ["sdpa"], device="cpu").names == ("sdpa",)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"preset": "fastest"}, "unknown preset"),
        ({"optimizations": ["fp8"]}, "unknown optimization"),
        ({"optimizations": ["cuda_graph"]}, "incompatible optimizations: cuda_graph: requires an"),
        ({"weights": "random"}, "unknown kind of weights"),
        ({"height": 100}, "not a whole number of latent tokens"),
    ],
)
def test_a_plan_that_is_not_possible_is_an_error_with_a_remedy(arguments, problem):
    with pytest.raises(fluxfast.FluxFastError, match=problem) as error:
        fluxfast.plan("dev", device="cpu", **arguments)
    assert "remedy" in str(error.value)


def test_a_loaded_pipeline_is_diffusers_own():
    pipeline = fluxfast.load("mini-schnell", device="cpu")
    assert type(pipeline).__module__.startswith("diffusers.")
    assert str(pipeline.transformer.dtype) == "torch.float32"


@pytest.mark.subprocess
def test_planning_judging_and_reporting_do_not_import_torch():
    packages = [importlib.import_module(f"fluxfast.{name}") for name in LIGHT_PACKAGES]
    names = [
        info.name
        for package in packages
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    ]
    names += ["fluxfast", *(f"fluxfast.{name}" for name in LIGHT)]
    heavy = "{'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    code = (
        f"import sys, {', '.join(names)}; fluxfast.list_optimizations(); "
        f"sys.exit(str({heavy}) if {heavy} else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
