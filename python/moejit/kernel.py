"""get_kernel, and the Kernel that it returns."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import sys
import threading
import weakref
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from . import _tensors
from ._library import LAUNCH_ARGS, ROUTED_LAUNCH_ARGS, OptionsStruct, library
from .config import ConfigHandle, ConfigLike, MoeConfig, as_config, c_text, integer
from .errors import DeviceError, Error, InvalidArgument, Unsupported

_POLICIES = {"cached": 0, "tune": 1, "frozen": 2}
_LOGIT_DTYPES = {"f32": 0, "bf16": 1, "f16": 2}

# GPU contexts do not survive a fork; kernels of the child's parent say so instead of crashing.
_gpu_kernels: "weakref.WeakSet[Kernel]" = weakref.WeakSet()


def _after_fork() -> None:
    for kernel in list(_gpu_kernels):
        kernel._forked = True
        kernel._torch = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def device_name(device: Any) -> str:
    """ "auto", "cpu", "cuda:0", "hip:0", "sim:sm_90a", from a string or a torch.device."""
    if hasattr(device, "type") and hasattr(device, "index"):
        return _tensors.torch_device(device)
    if not isinstance(device, str):
        raise InvalidArgument(f"device has type {type(device).__name__}: must be a string or a torch.device")
    return "cuda:0" if device == "cuda" else "hip:0" if device == "hip" else device


def get_kernel(config: "Optional[ConfigLike]" = None, *, device: Any = "auto", max_tokens: int = 8192,
               tokens: Optional[Sequence[int]] = None, policy: str = "cached", tune_budget_s: float = 0.0,
               cache_path: "Union[str, os.PathLike[str], None]" = None, num_threads: int = 0,
               **fields: Any) -> "Kernel":
    """The kernel of a layer.

    config: a MoeConfig, a dict of its fields, a preset's name, JSON text or the path of a model directory; or its
    fields as keywords. device: "auto" (the first GPU, else the CPU), "cpu", "cuda:0", a torch.device.
    Launches may have 0..max_tokens tokens; `tokens` are the counts to prepare for (None: 1, 2, 4, ...).
    policy: "cached" never measures, "tune" measures now (minutes; tune_budget_s seconds at most where that is not 0),
    "frozen" raises NotReady where the cache does not hold compiled code. num_threads: of the CPU; 0: all.

    Cost: the first call for a layer compiles (0.3 s on the CPU, about 1.5 s on a GPU); with the cache filled, 4 ms in a
    new process; microseconds afterwards. Safe from several threads. Raises a subclass of moejit.Error.
    """
    if config is None:
        config = fields
    elif fields:
        config = as_config(config).replace(**fields)
    layer = as_config(config)
    max_tokens = integer("max_tokens", max_tokens, -2**63, 2**63 - 1)
    num_threads = integer("num_threads", num_threads, -2**31, 2**31 - 1)
    if tokens is not None:
        if not hasattr(tokens, "__iter__"):
            raise InvalidArgument(f"tokens = {tokens!r}: must be a sequence of integers")
        tokens = [integer("tokens", count, -2**63, 2**63 - 1) for count in tokens]
    if policy not in _POLICIES:
        raise InvalidArgument(f"policy = {policy!r}: must be one of {', '.join(_POLICIES)}")
    name = device_name(device)
    if policy == "tune":
        from .tuning import tune  # which Ctrl-C can end, and the library's own policy not

        tune(layer, device=name, tokens=tokens or _buckets(max_tokens), budget_s=tune_budget_s, cache_path=cache_path,
             num_threads=num_threads)
    lib = library()
    options = OptionsStruct()
    lib.c.moejit_options_init(ctypes.byref(options), ctypes.sizeof(options))
    options.policy = _POLICIES["cached" if policy == "tune" else policy]
    options.device = c_text("device", name)
    options.max_tokens = max_tokens
    if tokens:
        options.tokens = (ctypes.c_int64 * len(tokens))(*tokens)
        options.num_tokens = len(tokens)
    if cache_path is not None:
        options.cache_path = c_text("cache_path", os.fspath(cache_path))
    options.num_threads = num_threads
    pointer = ctypes.c_void_p()
    with ConfigHandle.of(layer) as handle:
        lib.check(lib.c.moejit_get_kernel(handle.pointer, ctypes.byref(options), ctypes.byref(pointer)))
    kernel = Kernel(pointer.value or 0, layer)
    kernel._made_with = {"device": name, "max_tokens": max_tokens, "tokens": tokens, "num_threads": num_threads,
                         "cache_path": None if cache_path is None else os.fspath(cache_path)}
    return kernel


def _remade(config: MoeConfig, options: Dict[str, Any]) -> "Kernel":
    return get_kernel(config, **options)


def _buckets(max_tokens: int) -> List[int]:
    return [1 << i for i in range(max(max_tokens, 1).bit_length())]


def supports(config: ConfigLike, device: Any = "auto") -> Optional[str]:
    """None, or the sentence that says why the device cannot run the layer."""
    lib = library()
    with ConfigHandle.of(as_config(config)) as handle:
        status = lib.c.moejit_supports(handle.pointer, c_text("device", device_name(device)))
    return lib.error(status).message if status else None


def dtypes_of(config: MoeConfig) -> Tuple[str, ...]:
    """Those that tensors of the layer's dtype may have: uint16 holds the bits of bf16, which NumPy has no type for."""
    return ("bf16", "u16") if config.dtype == "bf16" else (config.dtype,)


# Shape of a tensor, and the same in letters for errors.
_Shape = Tuple[Tuple[int, ...], str]


def plain_shapes(config: MoeConfig) -> Tuple[_Shape, _Shape]:
    """w13 and w2 that are not packed."""
    total = config.num_experts + config.num_shared_experts
    rows = (2 if config.gated else 1) * config.intermediate_size
    hidden, inner = config.hidden_size, config.intermediate_size
    if config.transposed:
        return ((total, hidden, rows), "[E, H, 2I]"), ((total, inner, hidden), "[E, I, H]")
    return ((total, rows, hidden), "[E, 2I, H]"), ((total, hidden, inner), "[E, H, I]")


def packed_shapes(config: MoeConfig, device: str) -> Tuple[_Shape, _Shape]:
    """w13 and w2 as pack_weights makes them: the library knows how far rows are filled up."""
    lib = library()
    if not hasattr(lib.c, "moejit_packed_bytes"):
        raise Unsupported(f"{lib.path} (version {lib.version}) has no moejit_packed_bytes: it is older than this package")
    w13, w2 = ctypes.c_int64(), ctypes.c_int64()
    with ConfigHandle.of(config) as handle:
        lib.check(lib.c.moejit_packed_bytes(handle.pointer, c_text("device", device), ctypes.byref(w13), ctypes.byref(w2)))
    total = config.num_experts + config.num_shared_experts
    column = total * _tensors.SIZES[config.dtype]
    hidden, inner = config.hidden_size, config.intermediate_size
    return (((total, w13.value // (column * hidden), hidden), "packed [E, 2I, H], rows filled up to whole blocks"),
            ((total, w2.value // (column * inner), inner), "packed [E, H, I], rows filled up to whole blocks"))


class _DeviceMemory:
    """Memory of a kernel's device, freed with the object."""

    def __init__(self, kernel: "Kernel", size: int) -> None:
        lib = kernel._lib
        handle = ctypes.c_void_p()
        lib.check(lib.c.moejit_workspace_create(kernel._pointer, size, ctypes.byref(handle)))
        self.pointer: int = lib.c.moejit_workspace_data(handle)
        self._finalizer = weakref.finalize(self, lib.c.moejit_workspace_destroy, handle)
        self._finalizer.atexit = False  # as with kernels


class _Workspace(threading.local):
    """Per thread, and per stream on a GPU, so that launches which may overlap have their own."""

    def __init__(self) -> None:
        self.by_stream: Dict[int, Tuple[int, int, int, Any]] = {}  # stream: (tokens, pointer, size, owner)
        self.callers: Dict[int, int] = {}  # stream: handle of the quick path, which has that workspace in it
        self.owners: Dict[int, Any] = {}  # who destroys the handles


class Kernel:
    """Compiled code for one layer on one device. Made by get_kernel; all methods are safe from any thread."""

    def __init__(self, pointer: int, config: MoeConfig) -> None:
        self._lib = lib = library()
        self._pointer = pointer
        self._finalizer = weakref.finalize(self, lib.c.moejit_kernel_destroy, pointer)
        self._finalizer.atexit = False  # the process ends anyway, and daemon threads may still launch
        self.config = config
        self.device: str = lib.c.moejit_kernel_device(pointer).decode()
        self.max_tokens: int = lib.c.moejit_kernel_max_tokens(pointer)
        self._on_gpu = self.device.startswith(("cuda", "hip"))
        self._host_device = self.device if self._on_gpu else "cpu"
        # Enqueueing on a GPU is quick and must not be interleaved by threads that share a workspace;
        # on the CPU the call is the work, and other threads of the interpreter go on meanwhile.
        caller = lib.quick if self._on_gpu else lib.c
        self._launch = caller.moejit_kernel_launch
        self._launch_routed = caller.moejit_kernel_launch_routed
        self._workspaces = _Workspace()
        self._torch: Any = None
        self._forked = False
        self._made_with: Dict[str, Any] = {}
        (self._w13_shape, self._w13_meaning), (self._w2_shape, self._w2_meaning) = \
            packed_shapes(config, self.device) if config.packed else plain_shapes(config)
        total = config.num_experts + config.num_shared_experts
        rows = (2 if config.gated else 1) * config.intermediate_size
        self._b13_shape, self._b2_shape = (total, rows), (total, config.hidden_size)
        if self._on_gpu:
            _gpu_kernels.add(self)

    def __repr__(self) -> str:
        c = self.config
        return (f"<moejit.Kernel E={c.num_experts} K={c.top_k} H={c.hidden_size} I={c.intermediate_size} {c.dtype} "
                f"{c.activation} on {self.device}>")

    def __reduce__(self) -> Tuple[Any, ...]:
        """Copies, also those in other processes, are gotten anew, from the cache."""
        return _remade, (self.config, self._made_with)

    def workspace_size(self, num_tokens: int) -> int:
        """Bytes of workspace for that many tokens; grows with the count."""
        return self._lib.c.moejit_kernel_workspace_size(self._pointer, num_tokens)

    def buckets(self) -> List[Dict[str, Any]]:
        """Which schedule serves which token counts, and why: tokens, source ("exact", "nearest" or "model"),
        schedule, measured_s, predicted_s, floor_s, reason."""
        text = ctypes.c_void_p()
        self._lib.check(self._lib.c.moejit_kernel_buckets_json(self._pointer, ctypes.byref(text)))
        return json.loads(self._lib.take_string(text))

    # ---- launching ----

    def __call__(self, x: Any, w13: Any, w2: Any, topk_weights: Any, topk_ids: Any, out: Any = None, *, b13: Any = None,
                 b2: Any = None, workspace: Any = None, stream: Any = None, strict: bool = False) -> Any:
        """The layer: returns out [T, H], which is made where it is None.

        x [T, H], w13, w2, b13, b2 as MoeConfig says; topk_weights [T, K] f32; topk_ids [T, K] int32. An id outside
        [0, E) is skipped and adds 0; `strict` refuses it (and synchronises a GPU). int64 ids and bf16 or f16 weights
        are converted, which costs up to three small kernels a call. Tensors of torch, NumPy (bf16 as ml_dtypes.bfloat16, or
        its bits as uint16), or of any library with DLPack; all on the kernel's device.

        On a GPU the work is enqueued on the current stream of x's library (of torch, else CuPy, where x is neither's),
        or on `stream`, and the call returns; it may be captured in a CUDA graph. workspace: uint8, workspace_size(T)
        bytes, 256-byte aligned; None: the kernel keeps one per thread and stream. Out must not overlap the inputs.
        Raises InvalidArgument, whose .message begins with the argument's name; Unsupported where torch would have to
        record a gradient.
        """
        if workspace is None and stream is None and not strict:
            fast = self._torch
            if fast is not None:
                result = fast(x, w13, w2, topk_weights, topk_ids, out, b13, b2)
                if result is not None:
                    return result
        with self._on_stream(x, stream):
            return self._call(x, w13, w2, topk_weights, topk_ids, out, b13, b2, workspace, stream, strict)

    def routed(self, x: Any, w13: Any, w2: Any, router_logits: Any, out: Any = None, *, correction_bias: Any = None,
               b13: Any = None, b2: Any = None, topk_ids: Any = None, topk_weights: Any = None, workspace: Any = None,
               stream: Any = None) -> Any:
        """The layer with the config's router in front: router_logits [T, E] of f32, bf16 or f16.

        correction_bias: f32 [E], exactly where the router has one. topk_ids (int32 [T, K]) and topk_weights (f32
        [T, K]) receive the choice where they are given. Otherwise as __call__.
        """
        with self._on_stream(x, stream):
            return self._call_routed(x, w13, w2, router_logits, out, correction_bias, b13, b2, topk_ids, topk_weights,
                                     workspace, stream)

    def _call_routed(self, x: Any, w13: Any, w2: Any, router_logits: Any, out: Any, correction_bias: Any, b13: Any,
                     b2: Any, topk_ids: Any, topk_weights: Any, workspace: Any, stream: Any) -> Any:
        config = self.config
        stream_number = self._stream(x, stream)
        refuse_grad(x, w13, w2, router_logits, out, correction_bias, b13, b2, topk_weights)
        tokens, pointers, out, keep = self._common(x, w13, w2, b13, b2, out, stream_number)
        logits = _tensors.checked("router_logits", router_logits, (tokens, config.num_experts), "[T, E]",
                                  tuple(_LOGIT_DTYPES), self._host_device, stream_number, 2)
        keep.append(("router_logits", logits))
        chosen = [0, 0, 0]
        for slot, (name, tensor, shape, meaning, dtype) in enumerate((
                ("correction_bias", correction_bias, (config.num_experts,), "[E]", "f32"),
                ("topk_ids", topk_ids, (tokens, config.top_k), "[T, K]", "i32"),
                ("topk_weights", topk_weights, (tokens, config.top_k), "[T, K]", "f32"))):
            if tensor is not None:
                seen = _tensors.checked(name, tensor, shape, meaning, (dtype,), self._host_device, stream_number, 4,
                                        writable=slot > 0)
                chosen[slot] = seen.pointer
                keep.append((name, seen))
        for name, seen in keep:
            if name in ("out", "topk_ids", "topk_weights"):
                _tensors.separate(name, seen, [other for other in keep if other[0] != name])
        place, size, owner = self._workspace(tokens, workspace, x, stream_number)
        arguments = ROUTED_LAUNCH_ARGS.pack(
            ROUTED_LAUNCH_ARGS.size, _LOGIT_DTYPES[logits.dtype], tokens, pointers[0], pointers[1], pointers[2],
            pointers[3], pointers[4], logits.pointer, chosen[0], chosen[1], chosen[2], pointers[5], place, size)
        status = self._launch_routed(self._pointer, arguments, stream_number)
        del keep, owner
        if status:
            raise self._lib.error(status)
        return out

    def _call(self, x: Any, w13: Any, w2: Any, topk_weights: Any, topk_ids: Any, out: Any, b13: Any, b2: Any,
              workspace: Any, stream: Any, strict: bool) -> Any:
        stream_number = self._stream(x, stream)
        refuse_grad(x, w13, w2, topk_weights, out, b13, b2)
        tokens, pointers, out, keep = self._common(x, w13, w2, b13, b2, out, stream_number)
        shape = (tokens, self.config.top_k)
        weights = _tensors.checked("topk_weights", topk_weights, shape, "[T, K]", ("f32", "bf16", "f16"),
                                   self._host_device, stream_number, 2)
        ids = _tensors.checked("topk_ids", topk_ids, shape, "[T, K]", ("i32", "i64"), self._host_device,
                               stream_number, 4)
        _tensors.separate("out", keep[-1][1], [("topk_weights", weights), ("topk_ids", ids)])
        if weights.dtype != "f32":
            weights = _tensors.view("topk_weights", _tensors.convert("topk_weights", topk_weights, "float32"))
        if ids.dtype != "i32":
            ids = _tensors.view("topk_ids", _tensors.int32_ids("topk_ids", topk_ids))
        place, size, owner = self._workspace(tokens, workspace, x, stream_number)
        arguments = LAUNCH_ARGS.pack(LAUNCH_ARGS.size, int(strict), tokens, pointers[0], pointers[1], pointers[2],
                                     pointers[3], pointers[4], ids.pointer, weights.pointer, pointers[5], place, size)
        status = self._launch(self._pointer, arguments, stream_number)
        del keep, owner
        if status:
            raise _with_wide_id(self._lib.error(status), topk_ids)
        if self._torch is None and hasattr(x, "data_ptr"):
            from ._torch_call import make_call

            self._torch = make_call(self)
        return out

    def _common(self, x: Any, w13: Any, w2: Any, b13: Any, b2: Any, out: Any,
                stream: int) -> "Tuple[int, List[int], Any, List[Tuple[str, _tensors.View]]]":
        """Checks the arguments of both kinds of launch: tokens, addresses, out, and the views, which must stay alive."""
        config = self.config
        seen_x = _tensors.view("x", x, stream)
        if len(seen_x.shape) != 2:
            raise InvalidArgument(f"x has shape {_tensors.shape_text(seen_x.shape)}: must be [T, {config.hidden_size}]")
        tokens = seen_x.shape[0]
        dtypes = dtypes_of(config)
        if out is None:
            out = _tensors.empty_like(x, seen_x.shape)
        wanted = [
            ("x", x, (tokens, config.hidden_size), "[T, H]"),
            ("w13", w13, self._w13_shape, self._w13_meaning),
            ("w2", w2, self._w2_shape, self._w2_meaning),
        ]
        if config.bias:
            wanted += [("b13", b13, self._b13_shape, "[E, 2I]"), ("b2", b2, self._b2_shape, "[E, H]")]
        elif b13 is not None or b2 is not None:
            raise InvalidArgument(f"{'b13' if b13 is not None else 'b2'}: must be None, as the config's bias is False")
        views = [_tensors.checked(name, tensor, shape, meaning, dtypes, self._host_device, stream)
                 for name, tensor, shape, meaning in wanted]
        target = _tensors.checked("out", out, (tokens, config.hidden_size), "[T, H]", dtypes, self._host_device, stream,
                                  writable=True)
        named = [(name, seen) for (name, *_), seen in zip(wanted, views)] + [("out", target)]
        _tensors.separate("out", target, named[:-1])
        pointers = [seen.pointer for seen in views] + [0] * (5 - len(views)) + [target.pointer]
        return tokens, pointers, out, named

    def _on_stream(self, x: Any, stream: Any) -> Any:
        """What torch allocates for a launch belongs to the stream of the launch, also where that is another than its
        current one: its allocator may hand memory on as soon as that stream is done with it."""
        if stream is None or not self._on_gpu or not hasattr(x, "data_ptr"):
            return contextlib.nullcontext()
        torch, number, index = sys.modules["torch"], self._stream(x, stream), int(self.device.rpartition(":")[2])
        return torch.cuda.stream(torch.cuda.ExternalStream(number, index) if number else torch.cuda.default_stream(index))

    def _stream(self, x: Any, stream: Any) -> int:
        if self._forked:  # before torch or CuPy is asked for its stream, which fails with other words
            raise DeviceError("kernel: it was made before fork(), which no GPU context survives; call get_kernel in the "
                              "child, or start workers with the spawn method")
        if not self._on_gpu:
            return 0
        if stream is not None:
            for attribute in ("cuda_stream", "ptr"):  # torch, CuPy
                stream = getattr(stream, attribute, stream)
            return int(stream)
        torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
        if cupy is not None and (type(x).__module__.startswith("cupy") or torch is None):
            return cupy.cuda.get_current_stream().ptr
        if torch is not None and torch.cuda.is_initialized():
            return torch.cuda.current_stream(int(self.device.rpartition(":")[2])).cuda_stream
        return cupy.cuda.get_current_stream().ptr if cupy is not None else 0

    def _workspace(self, tokens: int, given: Any, like: Any, stream: int) -> Tuple[int, int, Any]:
        """Address, size and owner of the workspace of a launch."""
        if given is not None:
            seen = _tensors.view("workspace", given, stream)
            if seen.device != self._host_device:
                raise InvalidArgument(f"workspace is on {seen.device}: must be on {self._host_device}")
            if not seen.dense or seen.dtype not in ("uint8", "int8"):
                raise InvalidArgument(f"workspace has dtype {seen.dtype}: must be a dense uint8 tensor")
            size = 1
            for extent in seen.shape:
                size *= extent
            if size < self.workspace_size(tokens):
                raise InvalidArgument(f"workspace has {size} bytes: must have at least {self.workspace_size(tokens)} for "
                                      f"{tokens} tokens (Kernel.workspace_size)")
            return seen.pointer, size, seen
        if tokens == 0 or tokens > self.max_tokens:  # nothing to do, or an error that the library words
            return 0, 0, None
        known = self._workspaces.by_stream.get(stream)
        if known is not None and tokens <= known[0] and not self._capturing():
            return known[1], known[2], known[3]
        most = min(1 << (tokens - 1).bit_length(), self.max_tokens)
        size = self.workspace_size(most)
        pointer, owner = self._allocate(size, like)
        if not self._capturing():  # the graph's pool keeps what was allocated while it was captured
            self._workspaces.by_stream[stream] = (most, pointer, size, owner)
            self._workspaces.callers.pop(stream, None)
        return pointer, size, owner

    def _capturing(self) -> bool:
        torch = sys.modules.get("torch")
        return self._on_gpu and torch is not None and torch.cuda.is_initialized() and \
            torch.cuda.is_current_stream_capturing()

    def _allocate(self, size: int, like: Any) -> Tuple[int, Any]:
        if not self._on_gpu:
            memory = _tensors.HostMemory(size)
            return memory.pointer, memory
        if self._capturing() and hasattr(like, "data_ptr"):  # the memory is the graph's
            tensor = sys.modules["torch"].empty(size, dtype=sys.modules["torch"].uint8, device=like.device)
            return tensor.data_ptr(), tensor
        # Kept from call to call, so not of torch's: a recorder of graphs counts what its pool still holds.
        memory = _DeviceMemory(self, size)
        return memory.pointer, memory


def _with_wide_id(error: Error, topk_ids: Any) -> Error:
    """The error of a strict launch, with the id as the caller has it: the launch saw what int32 can hold."""
    named = re.match(r"topk_ids\[(\d+),(\d+)\] = (-?\d+)(.*)", error.message, re.DOTALL)
    if named is None or not hasattr(topk_ids, "__getitem__"):
        return error
    row, column, _, rest = named.groups()
    return type(error)(f"topk_ids[{row},{column}] = {int(topk_ids[int(row), int(column)])}{rest}", error.log)


def refuse_grad(*tensors: Any) -> None:
    """Raises where torch would have to record a gradient, which the kernels do not compute."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch._C._is_tracing():  # it would record an empty tensor, and nothing that fills it
        raise Unsupported("torch.jit.trace does not see the launch: call torch.ops.moejit.fused_moe, which it records")
    forward = torch.autograd.forward_ad
    if forward._current_level >= 0 and any(
            isinstance(tensor, torch.Tensor) and forward.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise Unsupported("a tensor has a tangent of forward-mode differentiation, and moejit computes none")
    if not torch.is_grad_enabled():
        return
    for tensor in tensors:
        if getattr(tensor, "requires_grad", False):
            raise Unsupported("a tensor requires a gradient, and moejit computes none: call under torch.no_grad() or "
                              "torch.inference_mode()")
