"""`python -m kufeed.cli` is the same as `kufeed`."""

import sys

from . import main

sys.exit(main())
