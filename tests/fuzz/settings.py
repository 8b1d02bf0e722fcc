"""Mutate what a user writes (cases, cache settings, budgets, options), and scheduler variables."""

import argparse
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import yaml

from fluxfast.bench.cases.own import planned_own_cases
from fluxfast.bench.results.shards import FILE as SHARDS
from fluxfast.bench.verdicts.metrics import PERFORMANCE_METRICS
from fluxfast.errors import FluxFastError
from fluxfast.mini import WEIGHTS
from fluxfast.optimizations.cache_config import RENAMED, read_cache_config
from fluxfast.optimizations.cache_settings import MASK_POLICIES, SETTINGS
from fluxfast.pytest_plugin.options import Options, add_options
from fluxfast.pytest_plugin.planning import plan_session
from fluxfast.pytest_plugin.sharding import (
    GITHUB_COUNT,
    GITHUB_INDEX,
    KUBERNETES_COUNT,
    KUBERNETES_INDEX,
    SLURM,
    resolved_shard,
)
from fluxfast.quality.budget import LOSSLESS, read_budgets
from tests.fuzz.mutations import VALUES, damaged, damaged_bytes, mutated, replaced_file
from tests.fuzz.outcomes import Kind, command
from tests.fuzz.results import write_run
from tests.support import own_cases
from tests.support.machines import CPU, H200
from tests.support.pages import REPOSITORY

METRICS = [metric.name for metric in PERFORMANCE_METRICS]
CASES = {
    "cases": [
        {**own_cases.EVERY_KEY, "quality": {"psnr_db": 30}},
        own_cases.LOSSLESS,
        {"checkpoint": "mini-dev", "lora": {"path": "lora.safetensors", "scale": 0.5}},
    ]
}
CACHE = {
    "cache_config": {
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 0,
        "max_warmup_steps": 2,
        "residual_diff_threshold": 0.1,
        "enable_taylorseer": True,
        "taylorseer_order": 1,
        "steps_computation_mask": [1, 0, 1, 0],
        "steps_computation_policy": "dynamic",
        "num_inference_steps": 4,
    }
}
_BUDGETS = yaml.safe_load((REPOSITORY / "correctness_tests" / "budgets.yaml").read_text())
BUDGETS = {hardware: dict([*of.items()][:3]) for hardware, of in [*_BUDGETS.items()][:2]}
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
)


def mutate_yaml(random: Random, path: Path, document: object, keys: tuple[object, ...]) -> None:
    """Write a YAML file with other values, another text, or something else at its path."""
    text = yaml.safe_dump(mutated(random, document, keys), sort_keys=False)
    if random.random() < 0.25:
        text = damaged(random, text)
    if random.random() < 0.02:
        text = LAUGHS + text
    path.write_bytes(text.encode(errors="surrogatepass"))
    if random.random() < 0.05:
        path.write_bytes(damaged_bytes(random, path.read_bytes()))
    if random.random() < 0.03:
        replaced_file(random, path)


def feed_cases(random: Random, folder: Path) -> None:
    (folder / "my-dev").symlink_to(WEIGHTS / "mini-dev")
    (folder / "lora.safetensors").touch()
    path = folder / "cases.yaml"
    entry = {key: None for one in CASES["cases"] for key in one}
    mutate_yaml(random, path, CASES, (*entry, "size", 1))
    hardware = random.choice((CPU, H200))
    planned, _ = planned_own_cases(path, random.choice((None, "tiers")), hardware, METRICS)
    assert len({one.case.id for one in planned}) == len(planned) > 0


def feed_cache(random: Random, folder: Path) -> None:
    path = folder / "cache.yaml"
    document = random.choice((CACHE, CACHE["cache_config"]))
    words = {"steps_computation_mask": random.choice((*MASK_POLICIES, [1, 0]))}
    mutate_yaml(random, path, document | words, (*SETTINGS, *RENAMED, 3, None))
    read_cache_config(path)


def feed_budgets(random: Random, folder: Path) -> None:
    path = folder / "budgets.yaml"
    mutate_yaml(random, path, BUDGETS, ("golden", "from", "any", "dev", "psnr_db"))
    budgets = read_budgets(path, random.choice(("cpu", "sm_90")))
    names = random.sample(sorted(budgets.bounds), min(3, len(budgets.bounds)))
    for model in ("dev", "schnell", "kontext"):
        assert all(isinstance(bound, float) for bound in budgets.of(names, model).values())
    assert budgets.golden(names) >= 0 and LOSSLESS in budgets.bounds


VARIABLES = (*SLURM.values(), KUBERNETES_INDEX, KUBERNETES_COUNT, GITHUB_INDEX, GITHUB_COUNT)
COUNTS = ("", "0", "1", "2", "4", "-1", "x", "1.5", "²", "٣", " 1", "1e3", "9" * 30, "9" * 5000)


def feed_shards(random: Random, folder: Path) -> None:
    if random.randrange(4):
        chosen = random.sample(VARIABLES, random.randint(0, 5))
        chosen += random.choice(([], SLURM.values(), VARIABLES[5:7], VARIABLES[7:]))
        environ = {name: random.choice(COUNTS) for name in chosen}
        part = resolved_shard(random.choice(("auto", *COUNTS, "1/2", "2/1", "1/9/9")), environ)
        plan_session(Options(baselines=folder, shard=part), CPU, "smoke", None)
        return
    for side in "BC":
        write_run(folder / side, side)
    ends = ("", " empty", " full")
    notes = [
        f"{random.choice(COUNTS)}/{random.choice(COUNTS)}{random.choice(ends)}\n" for _ in range(3)
    ]
    path = folder / "B" / SHARDS
    path.write_bytes(damaged_bytes(random, "".join(["1/2\n", *notes]).encode()))
    if random.randrange(10) == 0:
        replaced_file(random, path)
    command("merge", folder / "B", folder / "C", "--output", folder / "merged")


class _Parser:
    """The part of pytest's parser that options are added to."""

    def __init__(self) -> None:
        self.parser = argparse.ArgumentParser(exit_on_error=False)

    def getgroup(self, *_):
        return SimpleNamespace(addoption=self.parser.add_argument)


STATED = {
    "--gpu": ("auto", "cpu", "h200", "none"),
    "--matrix": ("smoke", "tiers", "ablation", "throughput", "memory", "cache", "none"),
    "--model": ("dev", "schnell", "kontext", "none"),
    "--weights": ("auto", "mini", "synthetic", "hub", "none"),
    "--resolution": ("64x64", "256", "64x", "0x0", "16x99999", "9999999x16"),
    "--batch-size": ("1", "4", "0", "-1"),
    "--num-inference-steps": ("1", "4", "0", "-1", "1001"),
    "--rounds": ("1", "0", "-1"),
    "--seconds": ("1", "0", "nan", "inf", "1e-320"),
    "--shard": ("1/2", "2/1", "auto", "0/0"),
    "--results": ("results", ""),
    "--against": ("HEAD", "none"),
    "--cases": ("cases.yaml", "none.yaml"),
    "--baselines": (str(REPOSITORY / "baselines"), "none"),
}


def feed_options(random: Random, folder: Path) -> None:
    words = []
    for name in random.sample(sorted(STATED), random.randint(1, 4)):
        other = str(random.choice(VALUES)).replace("\0", "")
        words += [name, random.choice((*STATED[name], *STATED[name], other))]
    words += random.sample(("--record", "--resume"), random.randint(0, 1))
    parser = _Parser()
    add_options(parser)
    (folder / "cases.yaml").write_text("cases: [{checkpoint: mini-dev}]\n")
    words = [str(folder / word) if word in STATED["--cases"] else word for word in words]
    try:
        given = parser.parser.parse_args(words)
        config = SimpleNamespace(
            getoption=lambda name: getattr(given, name.removeprefix("--").replace("-", "_"))
        )
        options = Options.of(config)
    except (argparse.ArgumentError, SystemExit, pytest.UsageError) as error:
        raise FluxFastError("refused", got=error, allowed="see there", remedy="there") from error
    hardware = random.choice((CPU, H200))
    plan_session(options, hardware, options.matrix or "smoke", options.batch_size)


KINDS = (
    Kind(name="file of cases", weight=9, feed=feed_cases),
    Kind(name="cache settings", weight=6, feed=feed_cache),
    Kind(name="budgets", weight=5, feed=feed_budgets),
    Kind(name="shards", weight=4, feed=feed_shards),
    Kind(name="suite options", weight=5, feed=feed_options),
)
