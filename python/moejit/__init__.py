"""moejit: fused Mixture-of-Experts kernels, generated, compiled, tuned and cached at run time.

    import moejit
    kernel = moejit.get_kernel(num_experts=128, top_k=8, hidden_size=2048, intermediate_size=768)
    y = kernel(x, w13, w2, topk_weights, topk_ids)

docs/python.md has the guide. Importing this module opens no library, no device and no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import MoeConfig, RouterConfig
from .errors import (Cancelled, CompileError, DataError, DeviceError, Error, InvalidArgument, IoError, LibraryNotFound,
                     NotFound, NotReady, OutOfMemory, Status, Unavailable, Unsupported, VerificationFailed)
from .kernel import Kernel, get_kernel, supports
from .ops import fused_experts, route
from .packing import pack_weights
from .tuning import bench, tune, verify
from . import cache

if TYPE_CHECKING:
    __version__: str

__all__ = [
    "Cancelled", "CompileError", "DataError", "DeviceError", "Error", "InvalidArgument", "IoError", "Kernel",
    "LibraryNotFound", "MoeConfig", "NotFound", "NotReady", "OutOfMemory", "RouterConfig", "Status", "Unavailable",
    "Unsupported", "VerificationFailed", "bench", "cache", "fused_experts", "get_kernel", "pack_weights", "route",
    "supports", "tune", "verify", "version",
]


def version() -> str:
    """The version of the library that is in use."""
    from ._library import library

    return library().version


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version()
    raise AttributeError(f"module 'moejit' has no attribute {name!r}")
