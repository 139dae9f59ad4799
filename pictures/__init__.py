#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Makes the pictures of the docs from what really runs.

Each module draws its own: ``python -m pictures.incident`` (ten seconds), ``python -m pictures.dashboard``
(two and a half minutes), ``python -m pictures.terminals`` (eight minutes).
"""

from pathlib import Path

#: Where all of them are kept.
IMAGES = Path(__file__).parents[1] / "docs" / "images"
