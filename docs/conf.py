#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The documentation site: `nox -s docs` builds it, and asks nothing of the network."""

import os
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "pipecat-circuit-breaker"
author = "the pipecat-circuit-breaker authors"
copyright = f"2026, {author}"
release = version = metadata.version(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "class_docstrings",
    "public_names",
]
exclude_patterns = [
    "_build",
]

# Anchors as GitHub makes them: the pages are read there as well.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "smartquotes"]

autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": "model_config",
}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

# Names of other projects are no links: their inventories are on the network.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(pipecat|pydantic|tenacity|loguru|opentelemetry|redis|collections|datetime|enum|contextlib|os|typing)\..*",
    ),
    # What a public signature names of the inside.
    ("py:.*", r"pipecat_circuit_breaker\.(_core|_pipeline|fleet\.view)\..*"),
    # Imported for type checkers alone, so autodoc does not know whose they are.
    ("py:class", r"PipelineWorker|ServiceSwitcher|BaseTextAggregator|MeterProvider|TracerProvider"),
]

html_theme = "furo"
html_title = project
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": "https://github.com/pipecat-circuit-breaker/pipecat-circuit-breaker/",
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": ["view"],
}
copybutton_exclude = ".linenos, .gp, .go"

# `nox -s links`
linkcheck_anchors_ignore_for_url = ["https://github.com/.*"]
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1)", r".*\.(internal|example)(:\d+)?(/.*)?$"]
