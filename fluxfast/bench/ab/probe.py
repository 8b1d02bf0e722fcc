"""Print the state of a Python environment as JSON: versions, failing imports and the GPU.

`environment.py` passes this text to `PYTHON -c`, with a mark for the line of the answer and the
modules to import as arguments. It runs where fluxfast and its dependencies may
be missing and on any version of Python 3, so it imports nothing of the project.
"""

import importlib
import json
import sys


def failing_imports(modules):  # type: ignore[no-untyped-def]
    """Return the error of each module that cannot be imported, by name."""
    failed = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            failed[name] = "{}: {}".format(type(error).__name__, str(error).partition("\n")[0])
    return failed


def gpu_name():  # type: ignore[no-untyped-def]
    """Return the name of the GPU that PyTorch uses; empty without one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ""
    return torch.cuda.get_device_name()


failed = failing_imports(sys.argv[2:])  # type: ignore[no-untyped-call]
found = {"python": list(sys.version_info[:3]), "failed": failed}
found["gpu"] = "" if failed else gpu_name()  # type: ignore[no-untyped-call]
sys.stdout.write("\n" + sys.argv[1] + json.dumps(found) + "\n")
