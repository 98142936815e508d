"""Looks into tensors of any framework: torch by its attributes, NumPy by __array_interface__, others by DLPack."""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from ctypes import POINTER, Structure, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from typing import Any, Optional, Sequence, Tuple

from .errors import Error, InvalidArgument, Unsupported

SIZES = {"f32": 4, "bf16": 2, "f16": 2, "i32": 4, "i64": 8, "u16": 2}

_TORCH_NAMES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int32": "i32", "int64": "i64", "uint16": "u16"}
_ARRAY_NAMES = {"<f4": "f32", "<f2": "f16", "<i4": "i32", "<i8": "i64", "<u2": "u16"}
# (code, bits) of DLDataType.
_DLPACK_NAMES = {(2, 32): "f32", (2, 16): "f16", (4, 16): "bf16", (0, 32): "i32", (0, 64): "i64", (1, 16): "u16"}
_DLPACK_DEVICES = {1: "cpu", 2: "cuda", 3: "cpu", 10: "hip", 11: "cpu", 13: "cuda"}


class View:
    """Address, shape and type of somebody's tensor; `owner` keeps the memory alive."""

    __slots__ = ("pointer", "shape", "dense", "dtype", "device", "read_only", "owner")

    def __init__(self, pointer: int, shape: Tuple[int, ...], dense: bool, dtype: str, device: str, read_only: bool,
                 owner: Any) -> None:
        self.pointer = pointer
        self.shape = shape
        self.dense = dense
        self.dtype = dtype
        self.device = device
        self.read_only = read_only
        self.owner = owner


    @property
    def size(self) -> int:
        """Bytes, of a dense tensor of a known dtype."""
        return math.prod(self.shape) * SIZES[self.dtype]


def is_dense(shape: Sequence[int], strides: Optional[Sequence[int]], unit: int = 1) -> bool:
    """Row-major without gaps. A stride of a dimension of size 1, or of an empty tensor, means nothing."""
    if strides is None or 0 in shape:
        return True
    expected = unit
    for size, stride in zip(reversed(shape), reversed(strides)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


class _DLTensor(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class _DLManagedTensorVersioned(Structure):
    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("manager_ctx", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", _DLTensor),
    ]


_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = c_void_p, [ctypes.py_object, ctypes.c_char_p]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


def _export(tensor: Any, stream: Optional[int]) -> Any:
    """The capsule of `tensor`, ordered before further work on `stream`."""
    kind, _ = tensor.__dlpack_device__()
    arguments = {}
    if kind in (2, 10, 13) and stream is not None:
        # 0 has another meaning in DLPack: the legacy default stream is 1 on CUDA, and 0 on ROCm.
        arguments["stream"] = stream if stream or kind == 10 else 1
    try:
        return tensor.__dlpack__(max_version=(1, 1), **arguments)
    except TypeError:  # a producer older than DLPack 1.0
        return tensor.__dlpack__(**arguments)


def _from_dlpack(name: str, tensor: Any, stream: Optional[int]) -> View:
    try:
        capsule = _export(tensor, stream)
    except (BufferError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgument(f"{name}: {type(tensor).__name__} does not export its memory: {error}") from None
    read_only = False
    if _is_valid(capsule, b"dltensor_versioned"):
        managed = _DLManagedTensorVersioned.from_address(_get_pointer(capsule, b"dltensor_versioned"))
        if managed.major != 1:
            raise Unsupported(f"{name}: DLPack version {managed.major}: must be 0 or 1")
        read_only = bool(managed.flags & 1)
        info = managed.tensor
    else:
        info = _DLTensor.from_address(_get_pointer(capsule, b"dltensor"))
    dtype = _DLPACK_NAMES.get((info.code, info.bits), f"dtype({info.code},{info.bits})") if info.lanes == 1 else "vector"
    shape = tuple(info.shape[i] for i in range(info.ndim))
    strides = tuple(info.strides[i] for i in range(info.ndim)) if info.strides else None
    device = _DLPACK_DEVICES.get(info.device_type, f"device_type {info.device_type}")
    if device in ("cuda", "hip"):
        device = f"{device}:{info.device_id}"
    return View((info.data or 0) + info.byte_offset, shape, is_dense(shape, strides), dtype, device, read_only, capsule)


def torch_device(device: Any) -> str:
    """moejit's name of a torch.device: "cpu", "cuda:1", "hip:0"."""
    if device.type == "cpu":
        return "cpu"
    if device.type != "cuda":
        return str(device)
    torch = sys.modules["torch"]
    index = device.index if device.index is not None else torch.cuda.current_device()
    return f"hip:{index}" if torch.version.hip else f"cuda:{index}"


def _from_torch(name: str, tensor: Any) -> View:
    try:
        return _read_torch(name, tensor)
    except Error:
        raise
    except RuntimeError as error:  # nested tensors, tensors of vmap
        raise InvalidArgument(f"{name} has type {type(tensor).__name__} and does not show its memory: "
                              f"{str(error).partition(chr(10))[0]}") from None


def _read_torch(name: str, tensor: Any) -> View:
    torch = sys.modules.get("torch")
    if torch is not None and tensor.layout is not torch.strided:
        raise InvalidArgument(f"{name} has layout {tensor.layout}: must be a dense tensor")
    if tensor.is_neg():  # its memory holds the values with the other sign
        raise InvalidArgument(f"{name} is a negated view: must be plain memory (Tensor.resolve_neg makes a copy)")
    dtype, shape, device = str(tensor.dtype).rpartition(".")[2], tuple(tensor.shape), torch_device(tensor.device)
    if hasattr(tensor, "fake_mode"):
        raise InvalidArgument(f"{name} is a FakeTensor, which has no memory: must be a plain tensor")
    pointer = tensor.data_ptr()
    if not pointer and device != "meta" and 0 not in shape:  # a wrapper around others: DTensor and its like
        raise InvalidArgument(f"{name} has type {type(tensor).__name__} and no memory of its own: must be a plain tensor")
    return View(pointer, shape, tensor.is_contiguous(), _TORCH_NAMES.get(dtype, dtype), device, False, tensor)


def _from_array_interface(name: str, tensor: Any) -> View:
    interface = tensor.__array_interface__
    text = interface["typestr"]
    dtype = _ARRAY_NAMES.get(text)
    if dtype is None:
        # ml_dtypes has types that NumPy's protocol can only call "two opaque bytes".
        own = getattr(getattr(tensor, "dtype", None), "name", text)
        dtype = "bf16" if own == "bfloat16" else f"big-endian {own}" if text[0] == ">" else own
    if type(tensor).__name__ == "MaskedArray":
        raise InvalidArgument(f"{name} is a masked array: must be a plain one (its filled() is)")
    shape = tuple(interface["shape"])
    dense = is_dense(shape, interface.get("strides"), SIZES.get(dtype, 1))
    pointer, read_only = interface["data"]
    return View(pointer, shape, dense, dtype, "cpu", read_only, tensor)


def view(name: str, tensor: Any, stream: Optional[int] = None) -> View:
    """What lies where. `name` is the argument's, for errors; `stream` the one that work will be enqueued on."""
    if hasattr(tensor, "data_ptr"):
        return _from_torch(name, tensor)
    if hasattr(tensor, "__array_interface__"):
        return _from_array_interface(name, tensor)
    if hasattr(tensor, "__dlpack__"):
        return _from_dlpack(name, tensor, stream)
    raise InvalidArgument(f"{name} has type {type(tensor).__name__}: must be a tensor of torch, NumPy, or a library that "
                          "exports DLPack")


def shape_text(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"


def checked(name: str, tensor: Any, shape: Sequence[int], meaning: str, dtypes: Sequence[str], device: str,
            stream: Optional[int] = None, alignment: int = 16, writable: bool = False) -> View:
    """The view of `tensor`, or InvalidArgument that begins with its name. `meaning`: the shape in letters."""
    seen = view(name, tensor, stream)
    if seen.dtype not in dtypes:
        raise InvalidArgument(f"{name} has dtype {seen.dtype}: must be {' or '.join(dtypes)}")
    if tuple(shape) != seen.shape:
        raise InvalidArgument(f"{name} has shape {shape_text(seen.shape)}: must be {shape_text(shape)}, {meaning}")
    if seen.device != device:
        raise InvalidArgument(f"{name} is on {seen.device}: must be on {device}, the kernel's device")
    if not seen.dense:
        raise InvalidArgument(f"{name} has gaps or transposed strides: must be dense and row-major")
    if seen.pointer % alignment and 0 not in seen.shape:
        raise InvalidArgument(f"{name} is at {seen.pointer:#x}: must be aligned to {alignment} bytes")
    if writable and seen.read_only:
        raise InvalidArgument(f"{name} is read-only: must be writable")
    return seen


def separate(name: str, written: View, others: "Sequence[Tuple[str, View]]") -> None:
    """Raises InvalidArgument where `written`, the argument `name`, shares memory with one of the others."""
    begin, size = written.pointer, written.size
    for other, seen in others:
        if size and -size < begin - seen.pointer < seen.size:
            raise InvalidArgument(f"{name} overlaps {other}: must be memory of its own")


class HostMemory:
    """Anonymous pages of the host: aligned, zero, and touched by nobody before they are used."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, max(size, 1))
        self.size = size
        self.pointer = ctypes.addressof(ctypes.c_char.from_buffer(self._map))


def empty_like(tensor: Any, shape: Sequence[int]) -> Any:
    """An uninitialised tensor of the same library, dtype and device."""
    if hasattr(tensor, "data_ptr"):
        return tensor.new_empty(tuple(shape))
    root = type(tensor).__module__.partition(".")[0]
    if root not in ("numpy", "cupy"):
        raise InvalidArgument(f"out = None: {root} has no way to make a tensor that moejit may write; pass one that has "
                              "(NumPy, CuPy or torch)")
    return sys.modules[root].empty(tuple(shape), dtype=tensor.dtype)


def convert(name: str, tensor: Any, dtype: str) -> Any:
    """A copy of `tensor` in another dtype, by its own library."""
    if hasattr(tensor, "data_ptr"):
        return tensor.to(getattr(sys.modules["torch"], dtype))
    if hasattr(tensor, "astype") and getattr(tensor.dtype, "name", "") != "uint16":
        return tensor.astype(dtype)
    raise InvalidArgument(f"{name} has type {type(tensor).__name__}, which cannot be converted: must be {dtype}")


def int32_ids(name: str, ids: Any) -> Any:
    """Ids as int32. One that int32 cannot hold is nobody's expert and stays so: narrowed alone, 2^32 would be expert 0."""
    if hasattr(ids, "clip"):
        ids = ids.clip(-1, 2**31 - 1)
    return convert(name, ids, "int32")
