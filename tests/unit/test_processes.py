"""A process that is killed leaves nothing that it had started to measure."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = "from fluxfast.processes import end_with_parent; end_with_parent(); print(0, flush=True)"
# Starts a child, prints its id when it is ready, and waits for it.
PARENT = f"""
import subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", {CHILD!r} + "; import time; time.sleep(600)"], stdout=subprocess.PIPE
)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.subprocess
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_ends_with_a_parent_that_is_killed(how):
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        parent.send_signal(how)
    deadline = time.monotonic() + 60
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(process):
    """Return whether a process exists and is no zombie, which nobody may wait for here."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.subprocess
def test_a_measuring_process_ends_with_its_parent():
    """It says so before it reads what to measure."""
    code = (
        "import runpy, sys\n"
        "from fluxfast import processes\n"
        "processes.end_with_parent = lambda: print(sys.stdin.readline(), end='', flush=True)\n"
        "runpy.run_module('fluxfast.bench.ab.child', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input="first\nno request", capture_output=True, text=True)
    assert done.stdout == "first\n" and "JSONDecodeError" in done.stderr
