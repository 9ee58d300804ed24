"""Find the docstrings of attributes where they are written.

Public names say `__module__ == "kufeed"`, so that tracebacks show what users import; autodoc then looks for the text
below an attribute in `kufeed/__init__.py`. Here it learns what stands in the modules behind.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from sphinx.pycode import ModuleAnalyzer

import kufeed

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PUBLIC = ("kufeed", "kufeed.protocol", "kufeed.testing")


def learn(app: Sphinx) -> None:
    found = [info.name for info in pkgutil.walk_packages(kufeed.__path__, "kufeed.")]
    for public in PUBLIC:
        package = ModuleAnalyzer.for_module(public)
        package.analyze()
        own = vars(importlib.import_module(public))
        for name in found:
            if name.startswith("kufeed.cli") or not name.startswith(f"{public}."):
                continue
            module = ModuleAnalyzer.for_module(name)
            module.analyze()
            for key, text in module.attr_docs.items():
                if key[0].partition(".")[0] in own:
                    package.attr_docs.setdefault(key, text)
            for qualified, order in module.tagorder.items():
                if qualified.partition(".")[0] in own:
                    package.tagorder.setdefault(qualified, order)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", learn)
    return {"parallel_read_safe": True}
