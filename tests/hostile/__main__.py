"""``python -m tests.hostile``: the table of attempts, as SECURITY.md has it."""

from __future__ import annotations

import sys

from tests.hostile.cases import table

sys.stdout.write(table())
