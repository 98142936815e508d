"""The quick path of Kernel.__call__ for torch tensors.

Whatever is not plainly right returns None, and the general path finds the words for it. There are two forms: libmoejit
looks into the tensors itself, through torch's exchange table of DLPack (torch 2.10 and newer), or Python reads their
attributes.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import c_char_p, c_size_t, c_uint32, c_void_p, py_object
from typing import TYPE_CHECKING, Any, Callable, Optional

from ._library import LAUNCH_ARGS

if TYPE_CHECKING:
    from .kernel import Kernel

_TORCH_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def make_call(kernel: "Kernel") -> Callable[..., Any]:
    """A function of (x, w13, w2, topk_weights, topk_ids, out, b13, b2) with everything about the layer in its closure."""
    torch = sys.modules["torch"]
    describe = _exchange_table(torch)
    if describe and hasattr(kernel._lib.quick, "moejit_caller_create"):
        return _by_exchange_table(kernel, torch, describe)
    return _by_attributes(kernel, torch)


def _raw_stream(torch: Any) -> Callable[[int], int]:
    found = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return found or (lambda device: torch.cuda.current_stream(device).cuda_stream)


# ---- through DLPack's exchange table ----


class _ExchangeTable(ctypes.Structure):
    """DLPackExchangeAPI of version 1."""

    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("previous", c_void_p),
        ("managed_tensor_allocator", c_void_p),
        ("managed_tensor_from_py_object_no_sync", c_void_p),
        ("managed_tensor_to_py_object_no_sync", c_void_p),
        ("dltensor_from_py_object_no_sync", c_void_p),
        ("current_work_stream", c_void_p),
    ]


class _CallerDesc(ctypes.Structure):
    """moejit_caller_desc."""

    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("describe", c_void_p),
        ("item", c_void_p),
        ("clear_error", c_void_p),
        ("unlock", c_void_p),
        ("lock", c_void_p),
        ("stream", c_void_p),
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
    ]


def _exchange_table(torch: Any) -> Optional[int]:
    """Address of the function that describes a tensor, or None where this torch has none."""
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    name = b"dlpack_exchange_api"
    valid, get = ctypes.pythonapi.PyCapsule_IsValid, ctypes.pythonapi.PyCapsule_GetPointer
    valid.restype, valid.argtypes = ctypes.c_int, [py_object, c_char_p]
    get.restype, get.argtypes = c_void_p, [py_object, c_char_p]
    if capsule is None or not valid(capsule, name):
        return None
    table = _ExchangeTable.from_address(get(capsule, name))
    return table.dltensor_from_py_object_no_sync if table.major == 1 else None


class Caller:
    """A moejit_caller: the kernel with one workspace, of one thread and stream."""

    def __init__(self, kernel: "Kernel", describe: int, stream: int, workspace: int, workspace_size: int) -> None:
        def address(name: str) -> Optional[int]:
            return ctypes.cast(getattr(ctypes.pythonapi, name), c_void_p).value

        lib = kernel._lib
        self._destroy = lib.quick.moejit_caller_destroy
        # The CPU's work is done within the call, so that other threads of the interpreter go on meanwhile.
        free = not kernel._on_gpu
        desc = _CallerDesc(ctypes.sizeof(_CallerDesc), 0, describe, address("PyTuple_GetItem"), address("PyErr_Clear"),
                           address("PyEval_SaveThread") if free else None,
                           address("PyEval_RestoreThread") if free else None, stream, workspace, workspace_size)
        pointer = c_void_p()
        self.pointer = 0
        lib.check(lib.c.moejit_caller_create(kernel._pointer, ctypes.byref(desc), ctypes.byref(pointer)))
        self.pointer = pointer.value or 0

    def __del__(self) -> None:
        if self.pointer:
            self._destroy(self.pointer)


def _by_exchange_table(kernel: "Kernel", torch: Any, describe: int) -> Callable[..., Any]:
    index = int(kernel.device.rpartition(":")[2]) if kernel._on_gpu else -1
    launch, workspaces, on_gpu, bias = kernel._lib.quick.moejit_caller_launch, kernel._workspaces, kernel._on_gpu, \
        kernel.config.bias
    is_grad_enabled, is_tracing, empty_like = torch.is_grad_enabled, torch._C._is_tracing, torch.empty_like
    forward = torch.autograd.forward_ad
    capturing, raw_stream = torch.cuda.is_current_stream_capturing, _raw_stream(torch)

    def caller_of(stream: int) -> Optional[int]:
        """Made once per thread and stream, as the workspace is."""
        known = workspaces.by_stream.get(stream)
        if known is None:
            return None
        caller = Caller(kernel, describe, stream, known[1], known[2])
        workspaces.owners[stream] = caller
        workspaces.callers[stream] = caller.pointer
        return caller.pointer

    def call(x: Any, w13: Any, w2: Any, topk_weights: Any, topk_ids: Any, out: Any, b13: Any, b2: Any) -> Any:
        try:
            if x.is_neg() or w13.is_neg() or w2.is_neg() or topk_weights.is_neg() or topk_ids.is_neg() or is_tracing() \
                    or forward._current_level >= 0:
                return None
            if is_grad_enabled() and (x.requires_grad or w13.requires_grad or w2.requires_grad
                                      or topk_weights.requires_grad or (out is not None and out.requires_grad)):
                return None
            if out is None:
                out = empty_like(x)
            elif out.is_neg():
                return None
            if on_gpu:
                stream = raw_stream(index)
                if capturing():
                    return None
            else:
                stream = 0
            caller = workspaces.callers.get(stream) or caller_of(stream)
            if bias:
                if b13.is_neg() or b2.is_neg() or (is_grad_enabled() and (b13.requires_grad or b2.requires_grad)):
                    return None
                objects: Any = (x, w13, w2, topk_weights, topk_ids, out, b13, b2)
            elif b13 is None and b2 is None:
                objects = (x, w13, w2, topk_weights, topk_ids, out)
            else:
                return None
            # A failure too: the general path finds it again.
            return None if caller is None or launch(caller, objects) else out
        except (AttributeError, TypeError, RuntimeError):
            return None  # no tensor of torch

    return call


# ---- through attributes, for torch before 2.10 ----


def _by_attributes(kernel: "Kernel", torch: Any) -> Callable[..., Any]:
    config = kernel.config
    dtype = getattr(torch, _TORCH_DTYPES[config.dtype])
    f32, i32 = torch.float32, torch.int32
    w13_shape, w2_shape = torch.Size(kernel._w13_shape), torch.Size(kernel._w2_shape)
    hidden, top_k, max_tokens = config.hidden_size, config.top_k, kernel.max_tokens
    index = int(kernel.device.rpartition(":")[2]) if kernel._on_gpu else -1  # what Tensor.get_device() says
    pointer, launch, pack, size_of_args = kernel._pointer, kernel._launch, LAUNCH_ARGS.pack, LAUNCH_ARGS.size
    workspaces = kernel._workspaces
    is_grad_enabled, is_tracing, empty_like = torch.is_grad_enabled, torch._C._is_tracing, torch.empty_like
    forward = torch.autograd.forward_ad
    item = 4 if config.dtype == "f32" else 2
    row_bytes, w13_bytes, w2_bytes = hidden * item, w13_shape.numel() * item, w2_shape.numel() * item
    capturing, raw_stream = torch.cuda.is_current_stream_capturing, _raw_stream(torch)
    on_gpu = kernel._on_gpu

    if config.bias:  # b13 and b2 are keywords, which this path does not take
        return lambda *_: None

    def call(x: Any, w13: Any, w2: Any, topk_weights: Any, topk_ids: Any, out: Any, b13: Any, b2: Any) -> Any:
        if b13 is not None or b2 is not None or is_tracing() or forward._current_level >= 0:
            return None
        try:
            x_shape = x.shape
            tokens, width = x_shape
            choice_shape = (tokens, top_k)
            w13_pointer, w2_pointer = w13.data_ptr(), w2.data_ptr()
            if (width != hidden or x.dtype is not dtype
                    or w13.shape != w13_shape or w2.shape != w2_shape
                    or w13.dtype is not dtype or w2.dtype is not dtype
                    or not (w13.is_contiguous() and w2.is_contiguous())
                    or w13.get_device() != index or w2.get_device() != index
                    or topk_weights.dtype is not f32 or topk_ids.dtype is not i32
                    or topk_ids.shape != choice_shape or topk_weights.shape != choice_shape
                    or not (x.is_contiguous() and topk_ids.is_contiguous() and topk_weights.is_contiguous())
                    or x.get_device() != index or topk_ids.get_device() != index
                    or topk_weights.get_device() != index
                    or tokens == 0 or tokens > max_tokens):
                return None
            if is_grad_enabled() and (x.requires_grad or w13.requires_grad or w2.requires_grad
                                      or topk_weights.requires_grad or (out is not None and out.requires_grad)):
                return None
            if x.is_neg() or w13.is_neg() or w2.is_neg() or topk_weights.is_neg() or topk_ids.is_neg():
                return None
            x_pointer, ids_pointer, weights_pointer = x.data_ptr(), topk_ids.data_ptr(), topk_weights.data_ptr()
            if out is None:
                out = empty_like(x)
                out_pointer = out.data_ptr()
            else:
                out_pointer = out.data_ptr()
                out_bytes, choice_bytes = tokens * row_bytes, tokens * top_k * 4
                if (out.is_neg() or out.shape != x_shape or out.dtype is not dtype or not out.is_contiguous()
                        or out.get_device() != index
                        or -out_bytes < out_pointer - x_pointer < out_bytes
                        or -out_bytes < out_pointer - w13_pointer < w13_bytes
                        or -out_bytes < out_pointer - w2_pointer < w2_bytes
                        or -out_bytes < out_pointer - ids_pointer < choice_bytes
                        or -out_bytes < out_pointer - weights_pointer < choice_bytes):
                    return None
            if on_gpu:
                stream = raw_stream(index)
                if capturing():
                    return None
            else:
                stream = 0
            most, workspace, workspace_size, _ = workspaces.by_stream[stream]
            if tokens > most:
                return None
            arguments = pack(size_of_args, 0, tokens, x_pointer, w13_pointer, w2_pointer, 0, 0,
                             ids_pointer, weights_pointer, out_pointer, workspace, workspace_size)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
            return None  # no tensor of torch, no memory behind it, no workspace yet, x not of two dimensions
        # A failure too: the general path finds it again, or that a tensor of the meta device has no address.
        return None if launch(pointer, arguments, stream) else out

    return call
