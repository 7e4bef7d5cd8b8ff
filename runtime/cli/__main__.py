"""`python -m skingpt_edge.runtime.cli`: the same as `skingpt`."""

import sys

from . import main

sys.exit(main())
