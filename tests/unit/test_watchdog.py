"""The time that calls on a GPU may take, with events in place of a GPU."""

import os
import signal
import time
from types import SimpleNamespace

import pytest

from fluxfast.errors import RankError
from fluxfast.optimizations.registry import default_names, plan
from fluxfast.pipeline import call_clock, ctrl_c
from fluxfast.pipeline.call_clock import CallClock, Limits, limits_of
from fluxfast.pipeline.ctrl_c import CtrlC
from fluxfast.pipeline.own_watch import WITH_OTHERS_S, OwnWatch
from fluxfast.pipeline.watchdog import Watchdog
from tests.support.machines import H200, situation

LIMIT_S, STEP_S, STEPS = 1.0, 0.5, 3


@pytest.fixture
def watched(monkeypatch):
    """Yield a watchdog of a GPU whose events end one after the other, `step_s` apart."""
    state = SimpleNamespace(step_s=STEP_S, queried_while_running=False)
    ends = []

    class Event:
        def record(self):
            self.ends_at = max([time.monotonic(), *ends]) + state.step_s
            ends.append(self.ends_at)

        def query(self):
            state.queried_while_running |= state.clock._runs
            return time.monotonic() >= self.ends_at

    processes = SimpleNamespace(processes=[], join=lambda **_: False)
    monkeypatch.setattr(call_clock.torch.cuda, "Event", Event)
    monkeypatch.setattr(Watchdog, "_dump_stacks", lambda self: None)
    state.clock = CallClock(Limits(first_call_s=LIMIT_S, call_s=LIMIT_S), is_gpu=True)
    with Watchdog(processes, state.clock, is_gpu=True) as state.dog:
        yield state


def test_steps_that_wait_in_the_queue_of_a_gpu_are_not_overdue(watched):
    for _ in range(STEPS):  # all of them are launched at once, and together exceed the limit
        with watched.dog.watching("a step"):
            pass
    time.sleep(STEPS * STEP_S + 0.5)
    watched.dog.check()
    assert not watched.clock._pending and not watched.queried_while_running


def test_a_step_that_a_gpu_does_not_end_is_a_failure(watched):
    watched.step_s = 60
    with watched.dog.watching("a step"):
        pass
    assert watched.dog._failed.wait(20)
    with pytest.raises(RankError, match="did not end in time"):
        watched.dog.check()


def test_an_event_is_not_queried_while_a_graph_may_be_recorded(watched):
    watched.step_s = 0.1
    watched.clock.limits = Limits(first_call_s=60, call_s=60)  # a busy machine may stand still
    with watched.dog.watching("a step"):
        pass
    with watched.dog.watching("another size"):
        time.sleep(0.3)
    time.sleep(0.3)
    watched.dog.check()
    assert not watched.queried_while_running


def test_only_a_first_call_that_compiles_may_take_minutes():
    on_hopper = situation(H200)
    kernels, compiled = plan(default_names(on_hopper), on_hopper), plan(["regional"], on_hopper)
    assert limits_of(compiled).first_call_s == 1200
    assert limits_of(kernels).first_call_s == 120
    clock = CallClock(limits_of(kernels), is_gpu=False)
    left_s = []
    for layout in ("a size", "a size", "another size"):
        started = time.monotonic()
        clock.start(layout)
        left_s.append(clock.deadline - started)
        clock.end()
    assert left_s == pytest.approx([120, 20, 120], abs=10)


@pytest.fixture
def interrupts(monkeypatch):
    """Yield a clock, and what notices Ctrl-C during its calls, whose handler raises at once."""
    monkeypatch.setattr(ctrl_c, "RETURN_S", 0.0)
    clock = CallClock(Limits(first_call_s=60, call_s=60), is_gpu=False)
    noticed = CtrlC(clock)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    noticed.listen()
    yield clock, noticed
    noticed.close()
    signal.signal(signal.SIGINT, before)


def press_ctrl_c():
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)


def test_ctrl_c_is_for_the_call_at_which_it_comes(interrupts):
    clock, noticed = interrupts
    press_ctrl_c()
    assert not noticed.is_overdue()  # no call
    clock.start("a step")
    assert not noticed.is_overdue()
    press_ctrl_c()
    assert noticed.is_overdue()
    clock.start("the next step")
    assert not noticed.is_overdue()


def test_two_pipelines_notice_the_same_ctrl_c_and_one_may_close(interrupts):
    clock, noticed = interrupts
    other = CtrlC(CallClock(Limits(first_call_s=60, call_s=60), is_gpu=False))
    other.listen()
    clock.start("a step")
    press_ctrl_c()
    assert not other.is_overdue() and noticed.is_overdue()
    other.close()
    clock.start("the next step")
    press_ctrl_c()
    assert noticed.is_overdue()


def test_a_program_that_handles_ctrl_c_itself_is_left_alone(interrupts):
    clock, noticed = interrupts
    clock.start("a step")
    signal.signal(signal.SIGINT, lambda *_: None)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    assert not noticed.is_overdue()


def test_whoever_reads_the_signals_goes_on_reading_them(interrupts):
    _, noticed = interrupts
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for change in (noticed.listen, noticed.close):
        signal.set_wakeup_fd(writer)
        change()
        assert signal.set_wakeup_fd(-1) == writer
    os.close(reader)
    os.close(writer)


def test_a_rank_of_torchrun_has_limits_within_an_image_but_waits_for_others_to_begin_one():
    clock = CallClock(Limits(first_call_s=60, call_s=20), is_gpu=False)
    timed = []
    team = SimpleNamespace(rank=1, wait=lambda: timed.append(clock.deadline))
    watch = OwnWatch(team, clock)
    for image in range(2):
        with watch.image():
            timed.append(watch._doing)
            for _ in range(2):
                with watch.watching("a size"):
                    timed.append((watch._doing, clock.limit_s))
                timed.append((watch._doing, clock.limit_s))
                assert clock.deadline is not None
        assert clock.deadline is None
        first_s = 20 if image else 60
        first, second = (f"call {number} of the transformer" for number in (1, 2))
        together = "which all ranks compute together,"
        after = "(scheduler, callback or decoder)"
        assert timed == [
            "encoding the prompt",
            None,
            (f"{first}, {together}", first_s + WITH_OTHERS_S),
            (f"what comes after {first} {after}", 20),
            (f"{second}, {together}", 20 + WITH_OTHERS_S),
            (f"what comes after {second} {after}", 20),
        ]
        timed.clear()
