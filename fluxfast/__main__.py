import sys

from fluxfast.cli.main import main

sys.exit(main())
