"""python -m moejit: the command-line tool."""

from __future__ import annotations

import os
import sys

from ._command import find_command
from ._library import prepare_environment
from .errors import Error


def main() -> int:
    """Becomes the command, so that signals, terminals and exit codes are its own."""
    prepare_environment()
    try:
        command = find_command()
    except Error as error:
        print(f"moejit: {error.message}", file=sys.stderr)
        return 4
    sys.stdout.flush()
    os.execv(command, [command, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
