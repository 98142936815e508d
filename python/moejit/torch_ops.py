"""torch.ops.moejit: the layer as operators that torch.compile, export and CUDA graphs know. Import to register.

    import moejit.torch_ops
    y = torch.ops.moejit.fused_moe(x, w13, w2, topk_weights, topk_ids)

fused_moe(x, w13, w2, topk_weights, topk_ids, b13=None, b2=None, layer="") -> Tensor
    returns a fresh [T, H].
fused_moe_out(x, w13, w2, topk_weights, topk_ids, out, b13=None, b2=None, layer="") -> ()
    writes `out`.

Shapes as Kernel.__call__ takes them; T may change from call to call, and may be more than one launch takes. `layer`: the
fields of MoeConfig that the shapes do not tell, as JSON, for example '{"activation": "gelu", "interleaved": true}';
{"packed": true} where w13 and w2 come from moejit.pack_weights.
Errors: Unsupported where a gradient would have to be recorded, InvalidArgument with the argument's name.
Registered with Library.define and impl, which costs a third of what torch.library.custom_op does per call.
"""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Dict, Optional, Tuple

import torch

from ._tensors import torch_device
from .config import MoeConfig
from .errors import InvalidArgument, Unsupported
from .kernel import Kernel, refuse_grad
from .ops import cached_kernel, run_in_chunks

_DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
_TENSORS = "Tensor x, Tensor w13, Tensor w2, Tensor topk_weights, Tensor topk_ids"

# (layer, shapes, dtype, device) -> Kernel.
_kernels: Dict[Tuple[Any, ...], Kernel] = {}
# (layer, address of w2) -> the quick path of the kernel that was right last time. It checks all that it is given and
# returns None where something does not fit, so a stale entry costs time and nothing else.
_quick: Dict[Tuple[str, int], Callable[..., Any]] = {}
_MOST_QUICK = 4096

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_quick.clear)


def layer_json(**fields: Any) -> str:
    """The `layer` argument: fields of MoeConfig other than the four sizes, the dtype and bias."""
    return json.dumps(fields, sort_keys=True) if fields else ""


def describe(x: Any, w13: Any, w2: Any, topk_ids: Any, has_bias: bool, layer: str) -> MoeConfig:
    """The layer that the tensors and the JSON describe; InvalidArgument where they do not fit together."""
    try:
        fields = json.loads(layer) if layer else {}
    except ValueError as error:
        raise InvalidArgument(f"layer = {layer!r}: must be JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidArgument(f"layer = {layer!r}: must be a JSON object")
    for name, tensor, dimensions in (("x", x, 2), ("w13", w13, 3), ("w2", w2, 3), ("topk_ids", topk_ids, 2)):
        if tensor.dim() != dimensions:
            raise InvalidArgument(f"{name} has shape {list(tensor.shape)}: must have {dimensions} dimensions")
    if x.dtype not in _DTYPES:
        raise InvalidArgument(f"x has dtype {x.dtype}: must be float32, bfloat16 or float16")
    # Packed weights have one shape, whatever they were packed from.
    inner = w2.shape[1] if fields.get("transposed") and not fields.get("packed") else w2.shape[2]
    shared = fields.get("num_shared_experts", 0)
    if not isinstance(shared, int):
        raise InvalidArgument(f"layer = {layer!r}: num_shared_experts = {shared!r}: must be an integer")
    try:
        return MoeConfig(num_experts=w2.shape[0] - shared, top_k=topk_ids.shape[1], hidden_size=x.shape[1],
                         intermediate_size=inner, dtype=_DTYPES[x.dtype], bias=has_bias, **fields)
    except TypeError as error:
        raise InvalidArgument(f"layer = {layer!r}: {error}") from None


def _refuse_tangents() -> None:
    """Within torch.func.jvp an operator is given plain tensors, without a sign of their tangents."""
    if torch.autograd.forward_ad._current_level >= 0:
        raise Unsupported("forward-mode differentiation is under way, and moejit computes no tangents: call outside of "
                          "dual_level and torch.func.jvp")


def _kernel(x: Any, w13: Any, w2: Any, topk_ids: Any, has_bias: bool, layer: str) -> Kernel:
    key = (layer, w2.shape, x.shape[-1], topk_ids.shape[-1], x.dtype, x.get_device(), has_bias)
    kernel = _kernels.get(key)
    if kernel is None or kernel._forked:
        config = describe(x, w13, w2, topk_ids, has_bias, layer)
        kernel = _kernels[key] = cached_kernel(config, torch_device(x.device))
    return kernel


def _biases(b13: Optional[Any], b2: Optional[Any]) -> Dict[str, Any]:
    if (b13 is None) != (b2 is None):
        raise InvalidArgument("b13: must be given exactly where b2 is")
    return {} if b13 is None else {"b13": b13, "b2": b2}


def _remember(kernel: Kernel, layer: str, w2: Any) -> None:
    if kernel._torch is not None:
        if len(_quick) >= _MOST_QUICK:
            _quick.clear()
        _quick[layer, w2.data_ptr()] = kernel._torch


def _fused_moe(x: Any, w13: Any, w2: Any, topk_weights: Any, topk_ids: Any, b13: Optional[Any] = None,
               b2: Optional[Any] = None, layer: str = "") -> Any:
    quick = _quick.get((layer, w2.data_ptr()))
    if quick is not None:
        result = quick(x, w13, w2, topk_weights, topk_ids, None, b13, b2)
        if result is not None:
            return result
    _refuse_tangents()
    kernel = _kernel(x, w13, w2, topk_ids, b13 is not None, layer)
    result = run_in_chunks(kernel, x, w13, w2, topk_weights, topk_ids, **_biases(b13, b2))
    _remember(kernel, layer, w2)
    return result


def _fused_moe_out(x: Any, w13: Any, w2: Any, topk_weights: Any, topk_ids: Any, out: Any, b13: Optional[Any] = None,
                   b2: Optional[Any] = None, layer: str = "") -> None:
    quick = _quick.get((layer, w2.data_ptr()))
    if quick is not None and quick(x, w13, w2, topk_weights, topk_ids, out, b13, b2) is not None:
        return
    _refuse_tangents()
    kernel = _kernel(x, w13, w2, topk_ids, b13 is not None, layer)
    run_in_chunks(kernel, x, w13, w2, topk_weights, topk_ids, out, **_biases(b13, b2))
    _remember(kernel, layer, w2)


def _check_fake(x: Any, w13: Any, w2: Any, topk_weights: Any, topk_ids: Any, *more: Any) -> None:
    # A compiled graph detaches what it is given, so that this is the last place that sees the flag.
    refuse_grad(x, w13, w2, topk_weights, *more)
    _refuse_tangents()
    for name, tensor, dimensions in (("x", x, 2), ("w13", w13, 3), ("w2", w2, 3), ("topk_weights", topk_weights, 2),
                                     ("topk_ids", topk_ids, 2)):
        if tensor.dim() != dimensions:
            raise InvalidArgument(f"{name} has shape {list(tensor.shape)}: must have {dimensions} dimensions")


def _fused_moe_fake(x: Any, w13: Any, w2: Any, topk_weights: Any, topk_ids: Any, b13: Optional[Any] = None,
                    b2: Optional[Any] = None, layer: str = "") -> Any:
    _check_fake(x, w13, w2, topk_weights, topk_ids, b13, b2)
    return x.new_empty(x.shape)


def _fused_moe_out_fake(x: Any, w13: Any, w2: Any, topk_weights: Any, topk_ids: Any, out: Any,
                        b13: Optional[Any] = None, b2: Optional[Any] = None, layer: str = "") -> None:
    _check_fake(x, w13, w2, topk_weights, topk_ids, out, b13, b2)


def _register() -> "torch.library.Library":
    library = torch.library.Library("moejit", "FRAGMENT")
    tags = (torch.Tag.needs_fixed_stride_order,)
    library.define(f"fused_moe({_TENSORS}, Tensor? b13=None, Tensor? b2=None, str layer=\"\") -> Tensor", tags=tags)
    library.define(f"fused_moe_out({_TENSORS}, Tensor(a!) out, Tensor? b13=None, Tensor? b2=None, str layer=\"\") -> ()",
                   tags=tags)
    for key in ("CPU", "CUDA"):
        library.impl("fused_moe", _fused_moe, key)
        library.impl("fused_moe_out", _fused_moe_out, key)
    torch.library.register_fake("moejit::fused_moe", _fused_moe_fake, lib=library)
    torch.library.register_fake("moejit::fused_moe_out", _fused_moe_out_fake, lib=library)
    return library


_library = _register()  # the registration lives as long as this object

fused_moe = torch.ops.moejit.fused_moe
fused_moe_out = torch.ops.moejit.fused_moe_out
