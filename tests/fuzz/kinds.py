"""All kinds of files that are fuzzed. Importing them imports what their readers need."""

import os
from importlib import import_module

os.environ["HF_HUB_OFFLINE"] = "1"  # a mutated location may look like a hub id

from fluxfast.optimizations.registry import optimizations
from fluxfast.report import page
from tests.fuzz import history, results, settings, weights

for name in ("altair", "ruptures"):
    import_module(name)
optimizations()
page._vega()
KINDS = (*results.KINDS, *history.KINDS, *settings.KINDS, *weights.KINDS)
