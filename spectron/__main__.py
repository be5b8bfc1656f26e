"""`python -m spectron` is `spectron`."""

import sys

from spectron.cli import main

sys.exit(main())
