"""``python -m runnerctl``: the same as the command ``runnerctl``."""

from __future__ import annotations

import sys

from runnerctl.cli.start import main

sys.exit(main())
