"""Finds libmoejit, opens it with ctypes, and turns failed calls into exceptions."""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import logging
import os
import struct
import threading
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p, py_object
from typing import List, Optional

from .errors import Error, LibraryNotFound, Unavailable, from_status

ABI_VERSION = 1
HERE = os.path.dirname(os.path.abspath(__file__))

# moejit_launch_args and moejit_routed_launch_args: packed in one step, and read-only to the library,
# so that the bytes object itself is the struct.
LAUNCH_ARGS = struct.Struct("<Iiq10Q")
ROUTED_LAUNCH_ARGS = struct.Struct("<Iiq12Q")

LOG_CALLBACK = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
_LEVELS = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO, 3: logging.DEBUG}
_log = logging.getLogger("moejit")


class OptionsStruct(ctypes.Structure):
    """moejit_options."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("policy", c_int32),
        ("device", c_char_p),
        ("max_tokens", c_int64),
        ("tokens", POINTER(c_int64)),
        ("num_tokens", c_size_t),
        ("tune_budget_s", c_double),
        ("cache_path", c_char_p),
        ("num_threads", c_int32),
        ("stream", c_void_p),
    ]


def candidates() -> List[str]:
    """Where libmoejit is looked for, in order."""
    named = os.environ.get("MOEJIT_LIBRARY")
    if named:
        return [named]  # who names one gets that one or an error
    return [os.path.join(HERE, "lib", "libmoejit.so"), "libmoejit.so.1"]


def cpu_module_path() -> Optional[str]:
    """libmoejit_cpu.so of the moejit-cpu wheel, or None where that is not installed."""
    spec = importlib.util.find_spec("moejit_cpu")
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = os.path.join(place, "lib", "libmoejit_cpu.so")
        if os.path.exists(path):
            return path
    return None


def prepare_environment() -> None:
    """Tells the library and the command where the wheel of the CPU module put it. The library reads
    its settings once, on first use, so this comes before it is opened."""
    if not os.environ.get("MOEJIT_CPU_MODULE"):
        path = cpu_module_path()
        if path:
            os.environ["MOEJIT_CPU_MODULE"] = path


def _declare(lib: ctypes.CDLL) -> None:
    handle, out_handle = c_void_p, POINTER(c_void_p)
    for name, result, arguments in (
        ("moejit_abi_version", c_uint32, []),
        ("moejit_version", c_char_p, []),
        ("moejit_last_error", c_char_p, []),
        ("moejit_last_error_log", c_char_p, []),
        ("moejit_string_free", None, [c_void_p]),
        ("moejit_set_log_callback", None, [c_void_p, c_void_p]),
        ("moejit_config_from_json", c_int32, [c_char_p, out_handle]),
        ("moejit_config_from_hf_json", c_int32, [c_char_p, out_handle]),
        ("moejit_config_from_preset", c_int32, [c_char_p, out_handle]),
        ("moejit_config_shard", c_int32, [handle, c_int32, out_handle]),
        ("moejit_config_json", c_char_p, [handle]),
        ("moejit_config_destroy", None, [handle]),
        ("moejit_options_init", None, [POINTER(OptionsStruct), c_uint32]),
        ("moejit_get_kernel", c_int32, [handle, POINTER(OptionsStruct), out_handle]),
        ("moejit_kernel_destroy", None, [handle]),
        ("moejit_kernel_launch", c_int32, [handle, c_char_p, c_void_p]),
        ("moejit_kernel_launch_routed", c_int32, [handle, c_char_p, c_void_p]),
        ("moejit_kernel_workspace_size", c_size_t, [handle, c_int64]),
        ("moejit_kernel_max_tokens", c_int64, [handle]),
        ("moejit_kernel_device", c_char_p, [handle]),
        ("moejit_kernel_config_json", c_char_p, [handle]),
        ("moejit_kernel_buckets_json", c_int32, [handle, out_handle]),
        ("moejit_supports", c_int32, [handle, c_char_p]),
    ):
        function = getattr(lib, name)
        function.restype = result
        function.argtypes = arguments
    for name, result, arguments in (  # appended to the interface since its first release
        ("moejit_caller_create", c_int32, [handle, c_void_p, out_handle]),
        ("moejit_caller_launch", c_int32, [handle, py_object]),
        ("moejit_caller_destroy", None, [handle]),
        ("moejit_workspace_create", c_int32, [handle, c_size_t, out_handle]),
        ("moejit_workspace_data", c_void_p, [handle]),
        ("moejit_workspace_destroy", None, [handle]),
        ("moejit_packed_bytes", c_int32, [handle, c_char_p, POINTER(c_int64), POINTER(c_int64)]),
        ("moejit_pack_weights", c_int32, [handle, c_char_p, c_void_p, c_void_p, c_void_p, c_void_p]),
    ):
        if hasattr(lib, name):
            function = getattr(lib, name)
            function.restype = result
            function.argtypes = arguments


class Library:
    """The opened library. `c` releases the interpreter lock during a call, `quick` keeps it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.c = ctypes.CDLL(path)
        self.quick = ctypes.PyDLL(path)
        try:
            for lib in (self.c, self.quick):
                _declare(lib)
        except AttributeError as error:
            raise Unavailable(f"{path} is not libmoejit, or a much older one: {error}") from None
        found = self.c.moejit_abi_version()
        if found < ABI_VERSION:
            raise Unavailable(f"{path} has version {found} of the C interface: must be at least {ABI_VERSION}")
        self.version = self.c.moejit_version().decode()
        self._bridge: Optional[object] = None
        if not os.environ.get("MOEJIT_LOG"):  # who sets it wants the library's own lines on stderr
            self._bridge_log()

    def _bridge_log(self) -> None:
        def forward(level: int, message: bytes, _user: object) -> None:
            _log.log(_LEVELS.get(level, logging.DEBUG), "%s", message.decode("utf-8", "replace"))

        self._bridge = LOG_CALLBACK(forward)
        self.c.moejit_set_log_callback(ctypes.cast(self._bridge, c_void_p), None)
        # A thread of the library may outlive the interpreter, which must not be called then.
        atexit.register(self.c.moejit_set_log_callback, None, None)

    def error(self, status: int) -> Error:
        """The exception of this thread's last failed call."""
        message = (self.c.moejit_last_error() or b"").decode("utf-8", "replace")
        log = (self.c.moejit_last_error_log() or b"").decode("utf-8", "replace")
        if status == Unavailable.status and "libmoejit_cpu" in message and cpu_module_path() is None:
            message += "; `pip install moejit-cpu` brings it"
        return from_status(status, message, log)

    def check(self, status: int) -> None:
        if status:
            raise self.error(status)

    def take_string(self, pointer: c_void_p) -> str:
        """The text of a char* that the caller owns."""
        try:
            return ctypes.string_at(pointer.value or 0).decode() if pointer.value else ""
        finally:
            self.c.moejit_string_free(pointer)


_opened: Optional[Library] = None
_lock = threading.Lock()


def library() -> Library:
    """libmoejit, opened on first use. Raises LibraryNotFound, which lists where it was looked for."""
    global _opened
    if _opened is not None:
        return _opened
    with _lock:
        if _opened is None:
            _opened = _open()
    return _opened


def _open() -> Library:
    prepare_environment()
    tried = []
    for path in candidates():
        if os.sep in path and not os.path.exists(path):
            tried.append(f"{path}: no such file")
            continue
        try:
            return Library(path)
        except OSError as error:
            tried.append(str(error) if path in str(error) else f"{path}: {error}")
    raise LibraryNotFound("libmoejit was not found (" + "; ".join(tried) + "). Install the wheel, build it with "
                          "`pip install .` in a checkout, or set MOEJIT_LIBRARY to the path of libmoejit.so")


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
