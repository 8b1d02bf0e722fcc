"""Run the command line with `python -m fluxfast`."""

import sys

from fluxfast.cli.main import main

sys.exit(main())
