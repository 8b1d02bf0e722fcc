import sys

from fluxfast.cli import main

sys.exit(main())
