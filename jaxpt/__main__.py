"""`python -m jaxpt`."""

import sys

from jaxpt.cli import main

sys.exit(main())
