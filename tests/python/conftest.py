"""Finds the package of this checkout, keeps the user's cache out of it, and says what is skipped."""

import os
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "python"))

# Before the library reads its settings.
if "MOEJIT_TEST_CACHE" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="moejit-python-")
    os.environ["MOEJIT_TEST_CACHE"] = _cache.name
os.environ["MOEJIT_CACHE_DIR"] = os.environ["MOEJIT_TEST_CACHE"]
os.environ.setdefault("MOEJIT_LOG", "")
os.environ["OMP_WAIT_POLICY"] = "passive"

import pytest  # noqa: E402


def _can_compile():
    import moejit

    try:
        moejit.get_kernel(num_experts=2, top_k=1, hidden_size=16, intermediate_size=16, device="cpu", max_tokens=1)
    except moejit.Unavailable as error:
        return error.message
    return ""


@pytest.fixture(scope="session")
def cpu():
    """The CPU as a device, or a skip where this build has no module that compiles for it."""
    why = _can_compile()
    if why:
        pytest.skip(why)
    return "cpu"
