"""The quick path of Kernel.__call__ for torch tensors: one chain of checks, one packed struct, one call.

Whatever is not plainly right returns None, and the general path finds the words for it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Callable

from ._library import LAUNCH_ARGS

if TYPE_CHECKING:
    from .kernel import Kernel

_TORCH_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


def make_call(kernel: "Kernel") -> Callable[..., Any]:
    """A function of (x, w13, w2, topk_weights, topk_ids, out) with everything about the layer in its closure."""
    torch = sys.modules["torch"]
    config = kernel.config
    dtype = getattr(torch, _TORCH_DTYPES[config.dtype])
    f32, i32 = torch.float32, torch.int32
    w13_shape, w2_shape = torch.Size(kernel._w13_shape), torch.Size(kernel._w2_shape)
    hidden, top_k, max_tokens = config.hidden_size, config.top_k, kernel.max_tokens
    index = int(kernel.device.rpartition(":")[2]) if kernel._on_gpu else -1  # what Tensor.get_device() says
    pointer, launch, pack, size_of_args = kernel._pointer, kernel._launch, LAUNCH_ARGS.pack, LAUNCH_ARGS.size
    workspaces = kernel._workspaces
    is_grad_enabled, empty_like = torch.is_grad_enabled, torch.empty_like
    item = 4 if config.dtype == "f32" else 2
    row_bytes, w13_bytes, w2_bytes = hidden * item, w13_shape.numel() * item, w2_shape.numel() * item
    capturing = torch.cuda.is_current_stream_capturing
    raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    if raw_stream is None:
        def raw_stream(device: int) -> int:
            return torch.cuda.current_stream(device).cuda_stream
    on_gpu = kernel._on_gpu

    if config.bias:  # b13 and b2 are keywords, which this path does not take
        return lambda *_: None

    def call(x: Any, w13: Any, w2: Any, topk_weights: Any, topk_ids: Any, out: Any) -> Any:
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
