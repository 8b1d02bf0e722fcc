"""A new file in a folder of `fluxfast/optimizations/` appears everywhere, without another edit."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from fluxfast.bench.cases.matrix import matrix
from fluxfast.cli.main import main
from fluxfast.cli.roofline import _attention as attention_of_roofline
from fluxfast.cli.roofline import _is_fp8
from fluxfast.errors import FluxFastError
from fluxfast.models.spec import DEV, default_request
from fluxfast.optimizations import attention, compilation, registry
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.facts import KernelCategory
from fluxfast.optimizations.situation import Situation
from fluxfast.profiling import kernel_profile
from fluxfast.profiling.evidence import gather_evidence, proofs
from fluxfast.quality.budget import read_budgets
from fluxfast.report.effects import effects
from fluxfast.report.inputs import read_inputs
from fluxfast.report.rows import rows_of
from tests.support.machines import CPU, H200
from tests.support.pipelines import built
from tests.support.results import case, result
from tests.support.sabotage.images import BUDGETS
from tests.support.synthetic_results import write

README = Path(registry.__file__).parent / "README.md"
EXAMPLE = README.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
COMPILER = '''"""A compiler that does nothing."""

from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Optimization, Proof

OPTIMIZATION = Optimization(
    name="{name}",
    axis=Axis.COMPILE,
    summary="a compiler that does nothing",
    apply=lambda build: None,
    proof=lambda evidence: Proof(is_active=True, detail="nothing to prove"),
    compiles=True,
    on_by_default=lambda hardware: False,
)
'''


def forget_optimizations():
    registry.optimizations.cache_clear()
    kernel_profile._patterns.cache_clear()


@pytest.fixture
def added(monkeypatch, tmp_path):
    """Return a function that adds a file to the folder of a kind; all are gone after the test."""
    modules = set(sys.modules)

    def add(kind, name, text):
        folder = tmp_path / kind.__name__.rpartition(".")[2]
        folder.mkdir(exist_ok=True)
        file = folder / f"{name}.py"
        file.write_text(text, encoding="utf-8")
        if str(folder) not in kind.__path__:
            monkeypatch.setattr(kind, "__path__", [*kind.__path__, str(folder)])
        importlib.invalidate_caches()
        forget_optimizations()
        return file

    yield add
    for name in set(sys.modules) - modules:
        if name.startswith("fluxfast.optimizations."):
            del sys.modules[name]
    monkeypatch.undo()
    forget_optimizations()


@pytest.fixture
def example(added):
    return added(attention, "e4m3_heads", EXAMPLE)


def situation(hardware):
    request = default_request(DEV, side=1024)
    return Situation(model=DEV, hardware=hardware, request=request)


def test_it_is_in_the_matrix_and_not_among_the_defaults(example):
    assert ("e4m3_heads",) in matrix("alone", situation(CPU))
    assert ("bf16", "e4m3_heads") in matrix("alone", situation(H200))
    assert "e4m3_heads" not in registry.default_names(situation(H200))
    names = list(registry.optimizations())
    assert names.index("cudnn") < names.index("e4m3_heads") < names.index("sdpa")


def test_the_command_line_lists_it(example, capsys):
    main(["doctor", "--device", "cpu", "--json"])
    rows = json.loads(capsys.readouterr().out)["optimizations"]
    (row,) = (row for row in rows if row["name"] == "e4m3_heads")
    assert row["axis"] == "attention" and row["state"] == "available"
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    assert "e4m3_heads" in capsys.readouterr().out


def test_the_roofline_takes_its_number_format_and_its_attention(example):
    plan = registry.plan(["e4m3_heads"], situation(CPU))
    assert _is_fp8(plan, Axis.ATTENTION) and not _is_fp8(plan, Axis.QUANTIZATION)
    assert attention_of_roofline(plan) is plan.on(Axis.ATTENTION).attention()
    assert not _is_fp8(registry.plan(["sdpa"], situation(CPU)), Axis.ATTENTION)


def test_the_profile_categorizes_its_kernels(example):
    assert kernel_profile.category_of("fluxfast::e4m3_heads") is KernelCategory.ATTENTION
    example.unlink()
    forget_optimizations()
    assert kernel_profile.category_of("fluxfast::e4m3_heads") is KernelCategory.QUANTIZE


def test_its_images_are_judged_by_the_budget_that_it_names(example):
    budgets = read_budgets(BUDGETS, "sm_90")
    assert budgets.of(["e4m3_heads"], "dev") == budgets.of(["fa3_fp8"], "dev")
    assert budgets.golden(["e4m3_heads"]) == budgets.golden(["fa3_fp8"])
    assert budgets.of(["e4m3_heads"], "dev") != budgets.of([], "dev")


def test_it_generates_an_image_and_is_proved_active(example):
    with built("e4m3_heads") as pipeline, built() as eager:
        image = pipeline.generate(output_type="pt")
        difference = (image - eager.generate(output_type="pt")).abs().max()
        assert 0 < difference < 0.5
        assert proofs(gather_evidence(pipeline))["e4m3_heads"].is_active


def test_the_report_estimates_a_compiler_by_its_own_fact(added, tmp_path):
    added(compilation, "no_compiler", COMPILER.format(name="no_compiler"))
    measured = [
        result(
            seconds,
            case=case(optimizations=names),
            hardware=H200,
            provenance={"process": 0, "dirty": False},
        )
        for names, seconds in ((("bf16",), 2.0), (("bf16", "no_compiler"), 1.0))
    ]
    found = read_inputs(write(measured, tmp_path / "results"))
    (effect,) = effects(rows_of(found, found))
    assert effect.name == "no_compiler" and effect.compiled
    assert effect.speed == pytest.approx(2.0)


def test_two_files_of_one_name_are_an_error_that_names_both(added):
    added(attention, "sdpa_again", COMPILER.format(name="sdpa"))
    with pytest.raises(FluxFastError, match="two files define the optimization 'sdpa'") as error:
        registry.optimizations()
    assert "attention/sdpa.py and" in error.value.got
    assert error.value.got.endswith("attention/sdpa_again.py")


def test_a_file_without_an_optimization_is_an_error_that_names_it(added):
    added(attention, "unfinished", '"""Nothing yet."""\n')
    with pytest.raises(FluxFastError, match="defines no optimization") as error:
        registry.optimizations()
    assert error.value.got.endswith("attention/unfinished.py")


def test_a_shared_file_is_no_optimization(added):
    known = list(registry.optimizations())
    added(attention, "_shared", '"""Shared by several attention kernels."""\n')
    assert list(registry.optimizations()) == known
