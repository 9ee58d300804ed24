"""The `kufeed` command. Needs the extra `cli` (cyclopts, rich).

Built on public names, and on what makes texts of others printable.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line in `sys.argv`; returns the exit code.

    0: done; 1: it failed; 2: it was called wrongly; 130, 143: left by Ctrl-C or SIGTERM; 141: nobody reads the output.
    """
    code = 130
    try:
        code = _run()
    except* KeyboardInterrupt:  # before or after Trio, which turns it into an ordinary end of the command
        pass
    return code


def _run() -> int:
    try:
        from ._app import run_app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("cyclopts", "rich"):
            raise
        sys.stderr.write('kufeed: the command line needs two more packages: pip install "kufeed[cli]"\n')
        return 1
    return run_app()
