"""Exceptions. Each carries the library's Status, its sentence and, where a compiler failed, its log."""

from __future__ import annotations

import enum
from typing import Dict, Type


class Status(enum.IntEnum):
    """What went wrong; the numbers are those of the C ABI and never change."""

    OK = 0
    INVALID_ARGUMENT = 1
    NOT_FOUND = 2
    UNSUPPORTED = 3
    UNAVAILABLE = 4
    NOT_READY = 5
    COMPILE_ERROR = 6
    DEVICE_ERROR = 7
    OUT_OF_MEMORY = 8
    IO_ERROR = 9
    DATA_ERROR = 10
    VERIFICATION_FAILED = 11
    CANCELLED = 12
    INTERNAL = 13


class Error(RuntimeError):
    """Base of all. `status` is the Status, `message` names field, value and rule, `log` is the
    compiler's output or empty."""

    status: Status = Status.INTERNAL

    def __init__(self, message: str, log: str = "", status: "Status | None" = None) -> None:
        super().__init__(message)
        self.message = message
        self.log = log
        if status is not None:
            self.status = status

    def __str__(self) -> str:
        return f"{self.status.name}: {self.message}"

    def __reduce__(self):  # exceptions cross process pools
        return type(self), (self.message, self.log, self.status)


class InvalidArgument(Error, ValueError):
    """An argument breaks a documented rule; `.message` begins with its name (str() puts the status in front)."""

    status = Status.INVALID_ARGUMENT


class NotFound(Error, LookupError):
    """A name, file, key or device that does not exist."""

    status = Status.NOT_FOUND


class Unsupported(Error):
    """Valid, but this build or this device cannot do it."""

    status = Status.UNSUPPORTED


class Unavailable(Error):
    """A compiler, driver or device that is missing on this machine."""

    status = Status.UNAVAILABLE


class NotReady(Error):
    """Would have to compile or load where that is forbidden (policy "frozen")."""

    status = Status.NOT_READY


class CompileError(Error):
    """The compiler refused generated source; `log` has its words."""

    status = Status.COMPILE_ERROR


class DeviceError(Error):
    """The driver or the device reported a failure."""

    status = Status.DEVICE_ERROR


class OutOfMemory(Error, MemoryError):
    """No memory on the host or the device."""

    status = Status.OUT_OF_MEMORY


class IoError(Error):
    """A file could not be read or written."""

    status = Status.IO_ERROR


class DataError(Error, ValueError):
    """Malformed JSON, safetensors or cache content."""

    status = Status.DATA_ERROR


class VerificationFailed(Error):
    """Results outside their tolerance."""

    status = Status.VERIFICATION_FAILED


class Cancelled(Error):
    """Stopped on request."""

    status = Status.CANCELLED


class LibraryNotFound(Unavailable, ImportError):
    """libmoejit is nowhere; the message lists the places."""


_BY_STATUS: Dict[int, Type[Error]] = {
    cls.status: cls
    for cls in (InvalidArgument, NotFound, Unsupported, Unavailable, NotReady, CompileError, DeviceError,
                OutOfMemory, IoError, DataError, VerificationFailed, Cancelled)
}


def from_status(status: int, message: str, log: str = "") -> Error:
    """The exception of a failed call."""
    cls = _BY_STATUS.get(status, Error)
    try:
        return cls(message, log, Status(status))
    except ValueError:  # a status of a newer library
        return Error(f"status {status}: {message}", log)
