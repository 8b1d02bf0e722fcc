"""The contents of each matrix, and that every combination in them is valid."""

from itertools import combinations

import pytest

from fluxfast.bench.cases.labels import label
from fluxfast.bench.cases.matrix import MATRICES, excluded, matrix, tiers
from fluxfast.bench.cases.planned import parse_resolution, planned_cases, shard
from fluxfast.errors import FluxFastError
from fluxfast.models.spec import SCHNELL
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.presets import preset_names
from fluxfast.optimizations.registry import default_names, is_valid, optimizations
from tests.support.machines import CPU, H200, MI300X, situation


@pytest.mark.parametrize("hardware", [CPU, H200, MI300X], ids=lambda h: h.name)
@pytest.mark.parametrize("kind", MATRICES)
def test_every_case_is_valid_and_there_once(kind, hardware):
    names = matrix(kind, situation(hardware))
    assert names and len(names) == len(set(names))
    assert all(is_valid(n, situation(hardware)) for n in names)


def test_smoke_is_eager_and_the_default_optimizations():
    assert matrix("smoke", situation(H200)) == [("bf16",), default_names(situation(H200))]
    assert matrix("smoke", situation(CPU))[0] == ()


def test_throughput_is_the_default_with_one_and_with_four_images_at_a_time():
    cases, _ = planned_cases("throughput", ["schnell"], "mini", CPU)
    assert [one.case.batch_size for one in cases] == [1, 4]
    assert [one.label for one in cases] == ["default", "default, batch 4"]
    (stated,), _ = planned_cases("throughput", ["schnell"], "mini", CPU, batch_size=2)
    assert stated.case.batch_size == 2


@pytest.mark.parametrize("hardware", [H200, MI300X], ids=lambda h: h.name)
def test_memory_is_the_default_and_the_preset_that_needs_less(hardware):
    cases, _ = planned_cases("memory", ["dev", "schnell"], "synthetic", hardware)
    assert [one.label for one in cases] == ["default", "low memory"] * 2
    for default, small in ((cases[0].plan, cases[1].plan), (cases[2].plan, cases[3].plan)):
        assert default.names == preset_names("default", default.situation)
        assert small.names == preset_names("low_memory", small.situation) != default.names


def test_memory_is_one_case_where_the_default_needs_no_less():
    (only,), _ = planned_cases("memory", ["schnell"], "mini", CPU)
    assert only.label == "default"


def test_tiers_are_eager_lossless_default_and_default_with_a_cache():
    eager, lossless, default, cached = matrix("tiers", situation(H200))
    assert [eager, default] == matrix("smoke", situation(H200))
    assert not any(optimizations()[name].is_lossy for name in lossless)
    assert set(lossless) == set(default) - {"fa3_fp8", "fp8_per_row"} | {"fa3"}
    assert set(cached) == {*default, "dbcache"}
    assert len(matrix("tiers", situation(H200, SCHNELL))) == 3  # no cache
    assert len(matrix("tiers", situation(CPU))) == 3  # the default is lossless


def test_peers_are_regional_compilation_and_the_settings_of_flux_fast():
    given = situation(H200)
    eager, regional, flux_fast, *rest = matrix("peers", given)
    assert [eager, *rest] == matrix("tiers", given)
    assert regional == ("bf16", "regional")
    settings = {"fused_projections", "fa3_fp8", "channels_last", "fp8_per_tensor", "compile"}
    assert set(flux_fast) == {"bf16", "inductor_flags", *settings}
    assert not {"compile", "inductor_flags"} & {
        e.name for e in excluded(matrix("peers", given), given)
    }


def test_the_ablation_is_cumulative_then_leave_one_out_then_additions():
    names = matrix("ablation", situation(H200))
    default = default_names(situation(H200))
    cumulative = [default[:count] for count in range(1, len(default) + 1)]
    assert [n for n in names if n == default[: len(n)]] == cumulative
    for name in set(default) - {"bf16", "fa3_fp8"}:
        off = default_names(situation(H200), {optimizations()[name].axis: None})
        assert off in names and name not in off
    # Without any attention optimization, those that require one would go, too.
    assert tuple(n.replace("fa3_fp8", "fa3") for n in default) in names
    assert any("dbcache" in n for n in names) and any("channels_last" in n for n in names)


@pytest.mark.slow
def test_slow_builds_are_in_the_full_matrix_only():
    slow = {"compile", "export_aoti", "inductor_flags"}
    for kind in ("smoke", "ablation", "pairwise"):
        cases = matrix(kind, situation(H200))
        assert not slow & {name for names in cases for name in names}
        assert slow <= {e.name for e in excluded(cases, situation(H200))}
    assert slow <= {name for names in matrix("full", situation(H200)) for name in names}


@pytest.mark.parametrize("hardware", [CPU, H200], ids=lambda h: h.name)
def test_pairwise_covers_every_two_settings_that_go_together(hardware):
    def settings(names):
        chosen = dict.fromkeys(Axis) | {optimizations()[n].axis: n for n in names}
        return set(combinations(chosen.items(), 2))

    given = situation(hardware)
    slow = {o.name for o in optimizations().values() if o.slow_to_build(hardware)}
    possible = [n for n in matrix("full", given) if not slow & set(n)]
    covering = matrix("pairwise", given)
    assert set().union(*map(settings, covering)) == set().union(*map(settings, possible))
    assert len(covering) < len(possible) / 10


def test_an_excluded_optimization_has_a_reason():
    given = situation(CPU, SCHNELL)
    reasons = {e.name: e.reason for e in excluded(matrix("smoke", given), given)}
    assert "ROCm" in reasons["aiter_fp8"] and "no steps to reuse" in reasons["dbcache"]


def test_labels_are_relative_to_the_default_optimizations():
    given = situation(H200)
    default = default_names(given)
    assert label(default, default) == "default" and label((), default) == "eager"
    assert label(tuple(n for n in default if n != "fa3_fp8"), default) == "default − fa3_fp8"
    assert label((*default, "dbcache"), default) == "default + dbcache"
    assert label(default[:-3], default) == " + ".join(default[:-3])
    instead = default_names(given, {Axis.NORMS: None})
    missing = "default − fused_norms − rotary_epilogue − gelu_epilogue − modulation_table"
    assert label(instead, default) == f"{missing} + fused_rotary + fused_gelu"
    tier_labels = [c.label for c in planned_cases("tiers", ["dev"], "synthetic", H200)[0]]
    assert tier_labels == ["eager bf16", "lossless", "default", "default + dbcache"]
    cases, _ = planned_cases("smoke", ["dev"], "synthetic", H200)
    assert [c.label for c in cases] == ["eager bf16", "default"]


def test_shards_are_disjoint_and_complete():
    cases, _ = planned_cases("ablation", ["dev", "schnell", "dev"], "auto", CPU)
    parts = [shard(cases, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(c.case.id for part in parts for c in part) == sorted(c.case.id for c in cases)
    assert len({c.case.id for c in cases}) == len(cases)
    for wrong in ("0/3", "4/3", "1", "a/b", "1/0"):
        with pytest.raises(FluxFastError, match="I/N"):
            shard(cases, wrong)


def test_the_identity_of_a_case_is_its_parameters():
    cases, _ = planned_cases("smoke", ["schnell"], "auto", CPU, height=128, width=64, batch_size=2)
    assert cases[0].case.id == "schnell-mini-128x64-b2-s4-eager"


def test_a_resolution_is_height_by_width():
    assert parse_resolution("1024x768") == (1024, 768)
    assert parse_resolution("512") == (512, 512)
    with pytest.raises(FluxFastError, match="HEIGHTxWIDTH"):
        parse_resolution("large")


@pytest.mark.parametrize(("option", "value"), [("kind", "huge"), ("model", "flux2")])
def test_an_unknown_matrix_or_model_is_an_error(option, value):
    arguments = {"kind": "smoke", "model": "dev"} | {option: value}
    with pytest.raises(FluxFastError, match=value):
        planned_cases(arguments["kind"], [arguments["model"]], "auto", CPU)


def test_alone_has_each_optimization_with_its_requirements():
    found = matrix("alone", situation(H200))
    assert ("bf16", "fp8_per_row") in found
    assert ("bf16", "fused_projections", "fa3_fp8", "fused_gelu") in found
    assert set(tiers(situation(H200))[1:]) <= set(found)
    covered = {name for names in found for name in names}
    runs = [o for o in optimizations().values() if o.why_unavailable(H200) is None]
    able = {o.name for o in runs if o.why_unsupported_request(situation(H200)) is None}
    assert able - covered == {o for o in able if optimizations()[o].slow_to_build(H200)}
