"""The `moejit` command: where it is, and running it for its JSON."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any, Dict, List, Optional, Sequence

from ._library import HERE, candidates, prepare_environment
from .errors import DataError, Error, InvalidArgument, IoError, NotFound, Unavailable, VerificationFailed

_EXIT_CODES = {2: InvalidArgument, 3: NotFound, 4: Unavailable, 5: VerificationFailed}


def find_command() -> str:
    """Path of the command: MOEJIT_COMMAND, the wheel's, the one beside MOEJIT_LIBRARY, or that of PATH."""
    named = os.environ.get("MOEJIT_COMMAND")
    places: List[Optional[str]] = [named] if named else [os.path.join(HERE, "bin", "moejit")]
    if not named:
        beside = os.path.dirname(os.path.realpath(candidates()[0]))
        # The script of this package has the same name, and would call itself.
        places += [os.path.join(beside, "moejit"), os.path.join(beside, "..", "bin", "moejit"), shutil.which("moejit")]
    for place in places:
        if place and os.path.isfile(place) and os.access(place, os.X_OK) and _is_program(place):
            return place
    raise Unavailable("the moejit command was not found (" + ", ".join(p for p in places if p) +
                      "): install the wheel, or set MOEJIT_COMMAND to its path")


def _is_program(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def run(arguments: Sequence[str], allowed: Sequence[int] = (0,)) -> str:
    """Standard output of the command; an exit code that is not allowed raises with what it said on stderr."""
    prepare_environment()
    done = subprocess.run([find_command(), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          check=False)
    if done.returncode not in allowed:
        said = done.stderr.strip().removeprefix("moejit: ").removeprefix("error: ") if hasattr(str, "removeprefix") \
            else done.stderr.strip()
        # Code 1 of the cache's verbs is a file that could not be written, most often.
        failed = IoError if arguments[0] == "cache" and done.returncode == 1 else Error
        raise _EXIT_CODES.get(done.returncode, failed)(said or f"moejit ended with code {done.returncode}")
    return done.stdout


def run_json(arguments: Sequence[str], allowed: Sequence[int] = (0,)) -> Dict[str, Any]:
    """The JSON object that the command prints with --json."""
    text = run([*arguments, "--json"], allowed)
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"moejit {' '.join(arguments)}: its output is no JSON: {error}") from None
