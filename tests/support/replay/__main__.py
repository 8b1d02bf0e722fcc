"""Simulate at full size and write the tables of docs/verdict.md.

Run it with `python -m tests.support.replay`.
"""

import statistics
import sys
from dataclasses import replace
from pathlib import Path

from fluxfast.bench.baselines.baseline import read_baseline
from fluxfast.bench.measurement.sampling import ON_CPU, Limits
from fluxfast.bench.verdicts.metrics import metric_named
from fluxfast.files import write_atomically
from tests.support.replay.peers import PEERS
from tests.support.replay.simulate import against_rates, interval, recording, stored_rates

DOCUMENT = Path(__file__).parents[3] / "docs" / "verdict.md"
BEGIN, END = "<!-- made by python -m tests.support.replay -->", "<!-- end -->"
H200 = Path(__file__).with_name("h200.json")
H100 = Path(__file__).with_name("h100.json")
CPU = Path(__file__).with_name("cpu.json")


def gpu(result):
    return result.environment["gpu"]["uuid"]


def session(result):
    return result.case.model, result.provenance["process"], gpu(result)


def on_one_card(case):
    """The three processes of these cases ran on one H200, those of the others on several."""
    return "fused_vae" in case.optimizations


def on_several_cards(case):
    return not on_one_card(case)


def h200():
    return recording(H200, "step_ms", cases=on_several_cards)


def h200_one_card():
    return recording(H200, "step_ms", cases=on_one_card)


def h200_one_card_reduced():
    return recording(H200, "step_ms", cases=on_one_card, reduced=True)


def h200_with_canaries():
    """The eager case of the same process stands in for the canaries that it lacks.

    The cases with a CUDA graph are those with canaries: no eager case ran in their processes.
    """
    step = metric_named("step_ms")
    eager = {
        session(result): statistics.median(step.samples(result))
        for results in read_baseline(H200).results.values()
        for result in results
        if result.case.optimizations == ("bf16",)
    }
    return recording(
        H200,
        "step_ms",
        cases=lambda case: len(case.optimizations) > 1 and "cuda_graph" not in case.optimizations,
        pace=lambda result: eager[session(result)],
    )


def h200_same_gpu():
    return recording(H200, "step_ms", group=gpu, cases=on_several_cards)


def h100():
    """Processes of one card. Other work on the host showed in the few steps of schnell, not in
    those of dev."""
    return recording(H100, "step_ms", cases=lambda case: case.model == "dev")


def h200_slow_hosts():
    """Made, not recorded: the host becomes slow while one of five processes is sampled."""
    recorded = recording(H200, "e2e_s", cases=on_one_card, reduced=True)
    return replace(recorded, slow_hosts=0.2)


def h200_slow_hosts_unseen():
    return replace(h200_slow_hosts(), halves=False)


def cpu():
    return recording(CPU, "eager_ratio")


def cpu_reduced():
    return recording(CPU, "eager_ratio", reduced=True)


# What is simulated: name, recording, how a run goes, the slowdowns, and what each figure is.
SCENARIOS = (
    ("H200, a step against the stored baseline (no canaries)", h200, stored_rates, (2, 5)),
    ("H200, the same with canaries (the eager case in their place)", h200_with_canaries,
     stored_rates, (2, 5)),
    ("H200, a step with `--against`", h200_same_gpu, against_rates, (2, 5)),
    ("H200, a step against the stored baseline (one card)", h200_one_card, stored_rates, (2, 5)),
    ("H200, one card, the same less what the scatter within explains", h200_one_card_reduced,
     stored_rates, (2, 5)),
    ("H100, a step of dev against the stored baseline (one card)", h100, stored_rates,
     (2, 5)),
    ("H200, whole image, one card, a host made slow by 5% in 1 process of 5", h200_slow_hosts,
     stored_rates, (8, 12)),
    ("H200, the same, halves of a process not compared", h200_slow_hosts_unseen, stored_rates,
     (8, 12)),
    ("CPU, ratio to the eager image, against the stored baseline", cpu, stored_rates, (15, 25)),
    ("CPU, the same less what the scatter within explains", cpu_reduced, stored_rates, (15, 25)),
    ("CPU, the same ratio with `--against`", cpu_reduced, against_rates, (15, 25)),
)  # fmt: skip


def table(name, recorded, simulate, percents, alarm_runs, runs):
    lines = [f"| {name} | slower at +0% | " + " | ".join(f"at +{p}%" for p in percents) + " |"]
    lines.append("| --- " * (2 + len(percents)) + "|")
    columns, undecided = [], []
    for percent in (0, *percents):
        count = alarm_runs if percent == 0 else runs
        limits = ON_CPU if recorded.metric.name == "eager_ratio" else Limits()
        called, outcomes = simulate(recorded, 1 + percent / 100, PEERS, count, limits)
        total = outcomes.total()
        columns.append({rule: _rate(times, total) for rule, times in called.items()})
        undecided.append(f"{outcomes['undecided'] / total:.1%}")
        sys.stderr.write(f"{name}: +{percent}%: {called}, {dict(outcomes)}\n")
    lines += [f"| {rule} | " + " | ".join(c[rule] for c in columns) + " |" for rule in columns[0]]
    lines.append("| fluxfast, undecided | " + " | ".join(undecided) + " |")
    return "\n".join(lines)


def _rate(times, runs):
    low, high = interval(times, runs)
    return f"{times / runs:.2%} ({low:.2%}–{high:.2%})"


def main(alarm_runs=10_000, runs=1_000):
    wanted = [s for s in SCENARIOS if not sys.argv[1:] or sys.argv[1] in s[0]]
    tables = [table(name, of(), how, p, alarm_runs, runs) for name, of, how, p in wanted]
    text = "\n\n".join([f"{alarm_runs:,} runs at +0%, {runs:,} at each slowdown.", *tables])
    if sys.argv[1:]:
        sys.stdout.write(f"{text}\n")
        return
    document = DOCUMENT.read_text()
    before, rest = document.split(BEGIN)
    write_atomically(DOCUMENT, f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
