#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Makes the pictures of the docs from what really runs: ``python -m pictures``."""

from pathlib import Path

#: Where all of them are kept.
IMAGES = Path(__file__).parents[1] / "docs" / "images"
