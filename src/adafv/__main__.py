"""`python -m adafv`."""

import sys

from adafv.cli import main

sys.exit(main())
