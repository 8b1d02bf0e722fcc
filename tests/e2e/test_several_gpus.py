"""One image computed by two processes: the same image, the same errors, and nothing left behind."""

import multiprocessing
import os
import re
import signal
import time
from contextlib import contextmanager
from threading import Thread

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch.multiprocessing.spawn import start_processes

import fluxfast
from benchmarks.variants import PROMPT, VARIANTS, generate, loaded
from fluxfast.bench.cases.planned import planned_case, situation_of
from fluxfast.bench.measurement.lora_swap import swappable_case
from fluxfast.cli.main import main
from fluxfast.errors import FluxFastError
from fluxfast.hardware import detect
from fluxfast.models.lora.synthetic import synthetic_lora
from fluxfast.models.weights import resolve
from fluxfast.pipeline import call_clock, ctrl_c, ranks
from tests.support.forked import LIBRARIES, PROCESSES
from tests.support.ranks import (
    EAGER,
    TEXT,
    Fault,
    join,
    rank_of_two,
    rank_of_two_with_a_fault,
    stuck,
)

MOST_DIFFERENCE = 1e-5  # of latents, relative: sums in another order, in float32
CACHE = {"Fn_compute_blocks": 1, "max_warmup_steps": 2, "residual_diff_threshold": 0.2}
CALLS = (
    {},
    {"num_images_per_prompt": 2, "height": 48, "width": 80, "max_sequence_length": 31},
    {"true_cfg_scale": 2.0, "negative_prompt": "a small blue square"},
    {"prompt": [PROMPT, "two small blue stars"], "guidance_scale": 1.0, "seed": 3},
)


@pytest.fixture(scope="module", autouse=True)
def one_server():
    """Fork workers from the process that other tests fork from, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "PRELOAD", LIBRARIES)
        yield


@pytest.fixture(scope="module")
def pipeline():
    torch.set_num_threads(1)
    return loaded(TEXT)


def difference(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def workers():
    return [p for p in multiprocessing.active_children() if p.is_alive()]


def test_two_processes_compute_what_one_does(pipeline):
    expected = [generate(pipeline, TEXT, **call) for call in CALLS]
    lora = synthetic_lora(pipeline.transformer, 4)
    with fluxfast.optimize(pipeline, disable=EAGER) as alone:
        alone.set_lora(lora)
        with_lora = generate(alone, TEXT)
    with fluxfast.optimize(pipeline, gpus=2, enable=["sdpa"], disable=EAGER) as shared:
        assert len(workers()) == 1
        for call, result in zip(CALLS, expected, strict=True):
            assert difference(generate(shared, TEXT, **call), result) <= MOST_DIFFERENCE
        report = shared.report()
        shared.set_lora(lora)
        assert difference(generate(shared, TEXT), with_lora) <= MOST_DIFFERENCE
        with pytest.raises(ZeroDivisionError):  # between two steps, where no rank waits
            generate(shared, TEXT, callback_on_step_end=lambda *_: 1 / 0)
        with pytest.raises(FluxFastError, match="another pipeline of this process"):
            fluxfast.optimize(loaded(TEXT), gpus=2, disable=EAGER)
        shared.set_lora(None)
        assert difference(generate(shared, TEXT), expected[0]) <= MOST_DIFFERENCE
    assert report.is_as_requested, str(report)
    assert set(report.proofs) == {"ulysses", "fused_projections", "sdpa", "channels_last"}
    # Two for each of six blocks, and one for the result. 16 images tokens and 32 text tokens.
    assert "13 all-to-alls in a step" in report.proofs["ulysses"].detail
    assert "16 of 32 text and 8 of 16 image tokens" in report.proofs["ulysses"].detail
    assert not workers() and not dist.is_initialized()
    assert torch.equal(generate(pipeline, TEXT), expected[0])


@pytest.mark.parametrize(
    "name", ["FluxKontextPipeline", pytest.param("FluxFillPipeline", marks=pytest.mark.slow)]
)
def test_other_pipelines_have_more_tokens_and_channels(name):
    variant = next(variant for variant in VARIANTS if variant.name == name)
    other = loaded(variant)
    expected = generate(other, variant)
    with fluxfast.optimize(other, gpus=2, disable=EAGER) as shared:
        assert difference(generate(shared, variant), expected) <= MOST_DIFFERENCE


def test_a_cache_skips_the_same_steps_on_every_rank(pipeline):
    call = {"num_inference_steps": 8, "height": 48, "width": 80}
    found, skipped = [], []
    for gpus in (1, 2):
        with fluxfast.optimize(pipeline, gpus=gpus, disable=EAGER, cache=CACHE) as cached:
            found.append(generate(cached, TEXT, **call))
            skipped.append(cached.pipeline.transformer.cached_runs.cached_steps())
    assert skipped[0] == skipped[1] > 0
    assert difference(found[1], found[0]) <= MOST_DIFFERENCE


def test_the_swaps_of_a_case_are_on_its_gpus():
    hardware = detect("cpu", 2)
    checkpoint = resolve("schnell", "mini", hardware)
    situation = situation_of(checkpoint, hardware, height=32, width=48, num_inference_steps=1)
    with swappable_case(planned_case(("ulysses",), checkpoint, situation), [4]) as swappable:
        assert len(workers()) == 1
        before = swappable.built.generate("latent")
        swappable.set_lora(4)
        assert not torch.equal(swappable.built.generate("latent"), before)


@pytest.mark.compile
@pytest.mark.slow
def test_compiled_blocks_exchange_too(pipeline):
    expected = generate(pipeline, TEXT)
    with fluxfast.optimize(pipeline, gpus=2) as shared:
        assert difference(generate(shared, TEXT), expected) <= MOST_DIFFERENCE
        assert (report := shared.report()).is_as_requested, str(report)


def test_a_command_shares_an_image(tmp_path, capsys):
    words = ["generate", "--ckpt", "mini-schnell", "--resolution", "32x48", "--device", "cpu"]
    words += ["--compile_export_mode", "disabled", "--num_inference_steps", "1"]
    images = []
    for gpus in ("1", "2"):
        file = tmp_path / f"{gpus}.png"
        assert main([*words, "--gpus", gpus, "--output-file", str(file)]) == 0
        images.append(np.asarray(Image.open(file)).astype(int))
    assert abs(images[0] - images[1]).max() <= 1  # a pixel may be rounded up or down
    assert "2 × " in capsys.readouterr().err
    assert not workers()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("error", r"rank 1 of the GPUs.*a planted error"),
        ("killed", r"rank 1 of the GPUs.*SIGKILL"),
        ("hangs", r"a call did not end in time"),
    ],
)
def test_a_rank_that_fails_ends_the_call_with_its_error(pipeline, monkeypatch, kind, message):
    monkeypatch.setattr(call_clock, "CALL_S", 1.0)
    fault = pipeline.transformer.x_embedder.register_forward_pre_hook(Fault(kind=kind))
    try:
        with fluxfast.optimize(pipeline, gpus=2, disable=EAGER) as shared:
            pids = [process.pid for process in workers()]
            started = time.monotonic()
            with pytest.raises(FluxFastError, match=message):
                generate(shared, TEXT)
            assert time.monotonic() - started < 30
            assert not any(map(is_running, pids))
            with pytest.raises(FluxFastError, match=message):  # it does not come back
                generate(shared, TEXT)
    finally:
        fault.remove()
    assert not dist.is_initialized()  # so the next test begins anew


def test_ctrl_c_and_errors_of_rank_0_end_the_workers(pipeline):
    for kind, error in (("interrupted", KeyboardInterrupt), ("error", torch.OutOfMemoryError)):
        with fluxfast.optimize(pipeline, gpus=2, disable=EAGER) as shared:
            fault = Fault(kind=kind, rank=0)
            hook = pipeline.transformer.proj_out.register_forward_pre_hook(fault)
            with pytest.raises(error):
                generate(shared, TEXT)
            hook.remove()
            assert not workers()
            with pytest.raises(FluxFastError, match="an earlier call failed"):
                generate(shared, TEXT)


def test_ctrl_c_ends_a_call_that_waits_for_another_rank(pipeline, monkeypatch):
    monkeypatch.setattr(call_clock, "CALL_S", 60.0)
    monkeypatch.setattr(ctrl_c, "RETURN_S", 0.5)
    fault = pipeline.transformer.x_embedder.register_forward_pre_hook(Fault(kind="hangs"))
    try:
        with fluxfast.optimize(pipeline, gpus=2, disable=EAGER) as shared, ctrl_c_is_handled():
            pids = [process.pid for process in workers()]
            clock = ranks._led[0]._clock
            Thread(target=interrupt_once_a_call_waits, args=(clock,), daemon=True).start()
            with pytest.raises(KeyboardInterrupt):
                generate(shared, TEXT)
            with pytest.raises(FluxFastError, match="an earlier call failed"):
                generate(shared, TEXT)
            give_up = time.monotonic() + 60  # the other thread waits for the processes
            while any(map(is_running, pids)):
                assert time.monotonic() < give_up
    finally:
        fault.remove()
    assert signal.set_wakeup_fd(-1) == -1


def test_ctrl_c_ends_a_process_that_waits_in_a_library():
    reader, writer = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=stuck, args=(writer,))
    process.start()
    assert reader.recv() == "stuck"
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    process.kill()
    assert process.exitcode == 130


@contextmanager
def ctrl_c_is_handled():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background ignores it
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_once_a_call_waits(clock):
    call = None
    while call is None or clock.deadline != call:
        call = clock.deadline
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_ranks_of_torchrun_compute_one_image_and_refuse_another_seed(pipeline):
    expected = generate(pipeline, TEXT, seed=1)
    results = multiprocessing.get_context("forkserver").SimpleQueue()
    calls = [{"seed": 1}, {"seed": 2}]
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    other = start_processes(
        rank_of_two,
        (store.port, calls, results),
        1,
        join=False,
        daemon=True,
        start_method="forkserver",
    )
    join(0, store)
    with fluxfast.optimize(pipeline, gpus=2, disable=EAGER) as shared:
        assert difference(generate(shared, TEXT, seed=1), expected) <= MOST_DIFFERENCE
        assert difference(torch.from_numpy(results.get()), expected) <= MOST_DIFFERENCE
        with pytest.raises(RuntimeError):  # the other rank leaves
            generate(shared, TEXT, seed=1)
        assert "another hidden_states than on rank 0" in results.get()
    other.join(timeout=10)
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("kind", "faulty", "message"),
    [
        ("hangs", 1, "rank 1 of the GPUs.* what comes after call 2 of the transformer"),
        ("stopped", 0, "rank 1 of the GPUs.* call 3 of the transformer, which all ranks"),
    ],
)
def test_a_rank_of_torchrun_ends_where_it_or_another_one_hangs(kind, faulty, message, tmp_path):
    texts = [tmp_path / "0", tmp_path / "1"]
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    both = start_processes(
        rank_of_two_with_a_fault,
        (store.port, kind, faulty, texts),
        2,
        join=False,
        daemon=True,
        start_method="forkserver",
    ).processes
    both[1].join(60)
    for process in both:
        process.kill()
    assert both[1].exitcode == 1
    assert re.search(message, texts[1].read_text())
