#!/usr/bin/env python3
"""Runs the tests of the Python package and says what is skipped and why. Exit code 77: all of it.

MOEJIT_TEST_PYTHON names the interpreter; else the first of this one, python3 and /usr/bin/python3 that has NumPy and pytest.
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def has(python, *names):
    check = "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(n) is None for n in sys.argv[1:]))"
    try:
        return subprocess.run([python, "-c", check, *names], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def main():
    named = os.environ.get("MOEJIT_TEST_PYTHON")
    candidates = [named] if named else [sys.executable, "python3", "/usr/bin/python3"]
    python = next((one for one in candidates if has(one, "numpy", "pytest")), None)
    if python is None:
        print(f"python tests: skipped: no NumPy and pytest for any of {', '.join(candidates)} "
              "(Debian: python3-numpy python3-pytest)")
        return 77
    for name in ("torch", "transformers", "ml_dtypes"):
        if not has(python, name):
            print(f"python tests: {name} is not installed: its tests are skipped", flush=True)
    command = [python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", HERE, *sys.argv[1:]]
    return subprocess.run(command, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
