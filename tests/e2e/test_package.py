"""Exported packages: correct, bound to the live weights, and refused where anything differs."""

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import Distribution, PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fluxfast import __version__
from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.errors import ArtifactError
from fluxfast.hardware import detect
from fluxfast.models.spec import DEV, default_request
from fluxfast.models.weights import resolve
from fluxfast.optimizations.base import Artifacts
from fluxfast.optimizations.compilation import _manifest as manifest
from fluxfast.optimizations.compilation import export_aoti
from fluxfast.optimizations.compilation._package import check_loads, export_package, load_package
from fluxfast.optimizations.graphs._replay import call_key
from fluxfast.optimizations.situation import Situation
from fluxfast.pipeline.build import build
from fluxfast.profiling.evidence import gather_evidence, proofs
from tests.support.machines import CPU, H200
from tests.support.pipelines import load_one_block_of_each_kind


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x, scale=None, flag=False):
        return (self.linear(x),)


CALL = {"x": torch.randn(4, 8), "scale": None, "flag": False}


@pytest.fixture(scope="module", autouse=True)
def headers_as_text():
    """Precompiled for AOTInductor alone, headers take longer than three packages save."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch._inductor.config.aot_inductor.precompile_headers", False)
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    module, path = Scaled().requires_grad_(False), tmp_path_factory.mktemp("package") / "scaled.pt2"
    entry = export_package(module, CALL, path)
    return module, path, json.loads(json.dumps(entry))


@pytest.mark.slow
@pytest.mark.compile
def test_a_package_reads_the_weights_of_the_module_it_is_bound_to(exported):
    _, path, entry = exported
    assert list(path.parent.iterdir()) == [path]
    for _ in range(2):
        other, x = Scaled().requires_grad_(False), torch.randn(4, 8)
        package = load_package(path, other, entry)
        assert torch.allclose(package(x=x, scale=None, flag=False)[0], other(x)[0], atol=1e-6)
        other.linear.weight.mul_(2)
        assert torch.allclose(package(x=x, scale=None, flag=False)[0], other(x)[0], atol=1e-6)


@pytest.mark.subprocess
def test_packages_that_crash_when_loaded_are_refused_and_not_kept(tmp_path, monkeypatch):
    packages = [tmp_path / name for name in ("transformer.pt2", "decoder.pt2")]
    for package in packages:
        package.touch()
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr("fluxfast.optimizations.compilation._package.LOADING", crash)
    with pytest.raises(ArtifactError, match="signal 11, compiled with CXX"):
        check_loads(packages)
    assert not list(tmp_path.iterdir())


def test_other_strides_are_copied_to_the_exported_layout(exported):
    module, path, entry = exported
    x = torch.randn(8, 4).T
    out = load_package(path, module, entry)(x=x, scale=None, flag=False)[0]
    assert torch.allclose(out, module(x)[0], atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"x": torch.randn(5, 8)},
        {"x": torch.randn(4, 8).double()},
        {"scale": torch.ones(())},
        {"flag": True},
        {"more": 1},
    ],
    ids=["shape", "dtype", "tensor for None", "constant", "keyword"],
)
def test_a_call_of_another_shape_is_refused(exported, change):
    module, path, entry = exported
    with pytest.raises(ArtifactError, match="another shape"):
        load_package(path, module, entry)(
            **{"x": torch.randn(4, 8), "scale": None, "flag": False} | change
        )


def test_another_model_is_refused(exported):
    _, path, entry = exported
    other = Scaled()
    other.linear = nn.Linear(8, 16)
    with pytest.raises(ArtifactError, match=r"linear\.(weight|bias)"):
        load_package(path, other, entry)


def test_a_replaced_file_is_refused(exported, tmp_path):
    module, path, entry = exported
    changed = tmp_path / "changed.pt2"
    changed.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ArtifactError, match="another hash"):
        load_package(changed, module, entry)
    with pytest.raises(ArtifactError, match="missing"):
        load_package(tmp_path / "none.pt2", module, entry)


def description(**changes):
    hardware = dataclasses.replace(H200, **changes.pop("hardware", {}))
    request = default_request(DEV, side=1024, **changes)
    names = ("bf16", "export_aoti")
    return manifest.described(Situation(model=DEV, hardware=hardware, request=request), names)


def test_a_package_is_described_where_the_project_is_not_installed(monkeypatch):
    from_name = Distribution.from_name

    def found(name):
        if name == "fluxfast":
            raise PackageNotFoundError(name)
        return from_name(name)

    monkeypatch.setattr(Distribution, "from_name", staticmethod(found))
    assert description()["fluxfast"]["version"] == __version__


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            {"hardware": {"name": "NVIDIA H100"}},
            r"gpu: exported with NVIDIA H200 \(sm_90\), here NVIDIA H100",
        ),
        ({"hardware": {"packages": {"torch": "9"}}}, "stack torch: exported with 1, here 9"),
        ({"height": 512}, "height: exported with 1024, here 512"),
        ({"batch_size": 2}, "batch_size: exported with 1, here 2"),
    ],
)
def test_the_error_of_a_manifest_lists_the_differences(tmp_path, change, difference):
    manifest.write(tmp_path, description(), {"transformer": {}})
    assert manifest.read(tmp_path, description()) == {"transformer": {}}
    with pytest.raises(ArtifactError, match=difference):
        manifest.read(tmp_path, description(**change))


class Exporting:
    """Stands in for the compiler: one package after the other, and the first attempts may fail."""

    def __init__(self, monkeypatch, folder, failing=0):
        self.folder, self.failing = folder, failing
        self.exports, self.loads = 0, 0
        self.have_begun = threading.Barrier(3)
        package = "fluxfast.optimizations.compilation._package"
        monkeypatch.setattr(f"{package}.export_package", self.export_package)
        monkeypatch.setattr(f"{package}.load_package", self.load_package)
        monkeypatch.setattr(f"{package}.check_loads", lambda paths: None)
        monkeypatch.setattr(export_aoti, "_captured_calls", self.captured_calls)

    def captured_calls(self, *_):
        self.have_begun.wait(10)
        return {"transformer": {}, "decoder": {}}

    def export_package(self, module, keywords, path, options):
        self.exports += 1
        if self.exports <= self.failing:
            raise ArtifactError("no room", got="", allowed="", remedy="")
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(self.exports))
        return {"exported": path.read_text()}

    def load_package(self, path, module, entry):
        assert path.read_text() == entry["exported"]
        self.loads += 1
        return SimpleNamespace(release=None)

    def apply(self, _):
        vae = SimpleNamespace(decode=None, config=None)
        build = SimpleNamespace(
            pipeline=SimpleNamespace(transformer=SimpleNamespace(forward=None), vae=vae),
            situation=situation_of(resolve("schnell", "mini", CPU), CPU, height=64, width=64),
            plan=SimpleNamespace(names=("eager",)),
            artifacts=Artifacts(folder=self.folder),
            compiler_options={},
            undo=ExitStack(),
        )
        try:
            export_aoti.apply(build)
        except ArtifactError as error:
            return error.problem
        return "loaded"


@pytest.mark.parametrize(("failing", "exports"), [(0, 2), (1, 3)])
def test_exports_that_wait_for_another_take_its_package(failing, exports, tmp_path, monkeypatch):
    """Unless it failed: then the next one exports."""
    monkeypatch.setattr("fluxfast.optimizations.compilation._package.Decoder", lambda vae: None)
    exporting = Exporting(monkeypatch, tmp_path, failing)
    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(exporting.apply, range(3)))
    assert sorted(ended) == ["loaded"] * (3 - failing) + ["no room"] * failing
    assert (exporting.exports, exporting.loads) == (exports, 2 * (3 - failing))
    # A later run without --use-cached-model exports again, as it always did.
    exporting.have_begun = threading.Barrier(1)
    assert exporting.apply(0) == "loaded" and exporting.exports == exports + 2
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "decoder.pt2", "manifest.json", "transformer.pt2",
    }  # fmt: skip


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_a_missing_or_broken_manifest_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / manifest.FILE).write_text(text)
    remedy = "run once with --compile_export_mode export_aoti, without --use-cached-model"
    with pytest.raises(ArtifactError, match=remedy):
        manifest.read(tmp_path, description())


def test_the_key_of_a_graph_covers_every_argument():
    x, y = torch.zeros(2, 3), torch.zeros(3, 2)
    keys = {
        call_key((x,), {}),
        call_key((y,), {}),
        call_key((), {"x": x}),
        call_key((y.T,), {}),
        call_key((x.double(),), {}),
        call_key((x,), {"flag": True}),
        call_key((x,), {"flag": False}),
        call_key(([x],), {}),
    }
    assert len(keys) == 8
    assert call_key((x,), {}) == call_key((torch.ones(2, 3),), {})


@pytest.mark.slow
@pytest.mark.compile
def test_packages_generate_the_same_image_when_exported_and_when_loaded(tmp_path, monkeypatch):
    load_one_block_of_each_kind(monkeypatch)
    checked = []  # correctness_tests start the process that loads them
    monkeypatch.setattr(
        "fluxfast.optimizations.compilation._package.check_loads",
        lambda paths: checked.extend(path.name for path in paths),
    )
    here = detect("cpu")
    checkpoint = resolve("schnell", "mini", here)
    request = dict(height=64, width=32, num_inference_steps=2, prompt="A cat with a ball of yarn")
    situation = situation_of(checkpoint, here, **request)
    names = ("fused_projections", "sdpa", "channels_last", "int8", "export_aoti")
    eager, planned = (planned_case(n, checkpoint, situation) for n in (names[:-1], names))
    with build(checkpoint, eager.plan) as pipeline:
        expected = pipeline.generate(output_type="pt")
    for use_cached in (False, True):
        artifacts = Artifacts(folder=tmp_path, use_cached=use_cached)
        with build(checkpoint, planned.plan, artifacts=artifacts) as pipeline:
            assert torch.allclose(pipeline.generate(output_type="pt"), expected, atol=2e-2)
            assert proofs(gather_evidence(pipeline))["export_aoti"].is_active
    assert checked == ["transformer.pt2", "decoder.pt2"]
    other = planned_case(names, checkpoint, situation_of(checkpoint, here, height=32, width=32))
    with pytest.raises(ArtifactError, match="no usable exported package"):
        build(checkpoint, other.plan, artifacts=Artifacts(folder=tmp_path, use_cached=True))
