"""Build backend of the wheel moejit-cpu: that of the checkout, with another product."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "build"))

from moejit_build import build_cpu_wheel as build_wheel  # noqa: E402,F401
from moejit_build import get_requires_for_build_wheel, write_metadata  # noqa: E402,F401


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    return write_metadata(metadata_directory, "moejit-cpu")


def build_sdist(sdist_directory, config_settings=None):
    raise SystemExit("moejit-cpu has no source archive of its own: it is part of moejit's")
