"""Sphinx configuration. Build with `scripts/check docs`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "_ext")]

import kufeed  # noqa: E402  # from the repository, not from elsewhere

project = "kufeed"
author = "The kufeed developers"
project_copyright = "The kufeed developers"
release = version = kufeed.__version__

extensions = ["sphinx.ext.autodoc", "sphinxcontrib_trio", "tables", "public_names"]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = f"kufeed {release}"
default_role = "py:obj"  # a link where it is a public name, code where it is not
nitpicky = False
pygments_style = "friendly"

autodoc_default_options = {"undoc-members": True}  # `bid` needs no words
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
