"""fused_experts and route: one call, no kernel to hold on to."""

from __future__ import annotations

import threading
from typing import Any, Dict, Optional, Tuple

from . import _tensors
from .config import MoeConfig, RouterConfig, integer
from .errors import InvalidArgument, Unsupported
from .kernel import Kernel, get_kernel

_MAX_TOKENS = 8192

# vLLM's spellings (MoEActivation.value and the strings before it) -> (activation, gated).
_ACTIVATIONS: Dict[str, Tuple[str, bool]] = {
    "silu": ("silu", True),
    "gelu": ("gelu", True),
    "gelu_tanh": ("gelu_tanh", True),
    "gelu_pytorch_tanh": ("gelu_tanh", True),
    "swigluoai": ("swiglu_oai", True),
    "swiglu_oai": ("swiglu_oai", True),
    "silu_clamp": ("silu_clamp", True),
    "relu2": ("relu2", True),
    "silu_no_mul": ("silu", False),
    "gelu_no_mul": ("gelu", False),
    "gelu_tanh_no_mul": ("gelu_tanh", False),
    "relu2_no_mul": ("relu2", False),
}

_kernels: Dict[Tuple[Any, ...], Kernel] = {}
_lock = threading.Lock()


def cached_kernel(config: MoeConfig, device: str, key: "Optional[Tuple[Any, ...]]" = None) -> Kernel:
    """The kernel of a layer on a device, one per process; `key` is a quicker name of the two."""
    if key is None:
        key = (config, device)
    kernel = _kernels.get(key)
    if kernel is None or kernel._forked:
        made = get_kernel(config, device=device, max_tokens=_MAX_TOKENS)
        with _lock:
            kernel = _kernels[key] = made
    return kernel


def shape_of(name: str, tensor: Any) -> Tuple[int, ...]:
    """The shape, also of what exports DLPack and nothing else; InvalidArgument for what is no tensor."""
    shape = getattr(tensor, "shape", None)
    return _tensors.view(name, tensor).shape if shape is None else tuple(shape)


def run_in_chunks(kernel: Kernel, x: Any, w13: Any, w2: Any, topk_weights: Any, topk_ids: Any, out: Any = None,
                  **keywords: Any) -> Any:
    """kernel(...), in as many launches as its max_tokens asks for."""
    shape, most = shape_of("x", x), kernel.max_tokens
    if not shape or shape[0] <= most:
        return kernel(x, w13, w2, topk_weights, topk_ids, out, **keywords)
    # The launches see slices only, and slicing does not mind a tensor that is too long or ends early.
    tokens, choice = shape[0], (shape[0], kernel.config.top_k)
    for name, tensor, wanted in (("x", x, (tokens, kernel.config.hidden_size)), ("topk_weights", topk_weights, choice),
                                 ("topk_ids", topk_ids, choice), ("out", out, (tokens, kernel.config.hidden_size))):
        if tensor is None and name == "out":
            continue
        if shape_of(name, tensor) != wanted:
            raise InvalidArgument(f"{name} has shape {_tensors.shape_text(shape_of(name, tensor))}: must be "
                                  f"{_tensors.shape_text(wanted)}")
        if not hasattr(tensor, "__getitem__"):
            raise InvalidArgument(f"{name} has type {type(tensor).__name__}, which cannot be cut into launches of {most} "
                                  "tokens: must be a tensor of torch, NumPy or CuPy")
    if out is None:
        out = _tensors.empty_like(x, x.shape)
    for begin in range(0, tokens, most):
        rows = slice(begin, min(begin + most, tokens))
        kernel(x[rows], w13, w2, topk_weights[rows], topk_ids[rows], out[rows], **keywords)
    return out


def fused_experts(hidden_states: Any, w1: Any, w2: Any, topk_weights: Any, topk_ids: Any, inplace: bool = False,
                  activation: Any = "silu", apply_router_weight_on_input: bool = False, global_num_experts: int = -1,
                  expert_map: Any = None, quant_config: Any = None, *, w1_bias: Any = None, w2_bias: Any = None,
                  swiglu_alpha: float = 1.702, swiglu_limit: float = 7.0, interleaved: bool = False,
                  packed: bool = False, out: Any = None) -> Any:
    """A whole layer with the argument names of vLLM's function: hidden_states [T, H], w1 [E, 2I, H] (gate rows, then
    up rows), w2 [E, H, I], topk_weights and topk_ids [T, K]; returns [T, H], which is hidden_states where `inplace`.

    activation: "silu", "gelu", "gelu_tanh", "relu2", "swigluoai" or one with "_no_mul" (w1 [E, I, H]); or an enum whose
    value is one. expert_map: int32 [global_num_experts], the local id of each expert or -1 for "not mine"; ids
    that are not mine add 0, so the ranks' results are summed. packed: w1 and w2 come from pack_weights, with the same
    `gated` and `interleaved`. The layer, dtype and device are read off the tensors; the first call for a layer compiles.
    quant_config must be None. Raises InvalidArgument, Unsupported.
    """
    if quant_config is not None and not _is_unquantized(quant_config):
        raise Unsupported("quant_config: quantised weights are not supported")
    seen = _tensors.view("hidden_states", hidden_states)
    w1_shape, w2_shape, ids_shape = shape_of("w1", w1), shape_of("w2", w2), shape_of("topk_ids", topk_ids)
    if len(seen.shape) != 2:
        raise InvalidArgument(f"hidden_states has shape {_tensors.shape_text(seen.shape)}: must be [T, H]")
    if seen.dtype not in ("f32", "bf16", "f16", "u16"):
        raise InvalidArgument(f"hidden_states has dtype {seen.dtype}: must be f32, bf16 or f16")
    if inplace and not hasattr(hidden_states, "__setitem__"):
        raise InvalidArgument(f"inplace = {inplace!r}: hidden_states has type {type(hidden_states).__name__}, which cannot "
                              "be written to")
    if len(w1_shape) != 3 or len(w2_shape) != 3:
        name, shape = ("w1", w1_shape) if len(w1_shape) != 3 else ("w2", w2_shape)
        raise InvalidArgument(f"{name} has shape {_tensors.shape_text(shape)}: must have three dimensions")
    name = getattr(activation, "value", activation)
    if name not in _ACTIVATIONS:
        raise InvalidArgument(f"activation = {name!r}: must be one of {', '.join(_ACTIVATIONS)}")
    plain, gated = _ACTIVATIONS[name]
    if len(ids_shape) != 2:
        raise InvalidArgument(f"topk_ids has shape {_tensors.shape_text(ids_shape)}: must be [T, K]")
    if global_num_experts != -1 and expert_map is None and global_num_experts != w1_shape[0]:
        raise InvalidArgument(f"global_num_experts = {global_num_experts}: w1 has {w1_shape[0]} experts, so expert_map "
                              "must say which they are")
    if (w1_bias is None) != (w2_bias is None):
        raise InvalidArgument("w1_bias: must be given exactly where w2_bias is")
    dtype = "bf16" if seen.dtype == "u16" else seen.dtype
    key = ("fused", seen.device, w1_shape, w2_shape, seen.shape[1], ids_shape[1], dtype, plain, gated, w1_bias is not None,
           apply_router_weight_on_input, interleaved, packed, swiglu_alpha, swiglu_limit)
    kernel = _kernels.get(key)
    if kernel is None or kernel._forked:
        if not packed:  # else the kernel knows how far rows are filled up
            _check_weights(w1_shape, w2_shape, seen.shape[1], gated)
        top_k = ids_shape[1]
        config = MoeConfig(num_experts=w1_shape[0], top_k=min(top_k, w1_shape[0]), hidden_size=seen.shape[1],
                           intermediate_size=w2_shape[2], dtype=dtype, activation=plain, gated=gated,
                           bias=w1_bias is not None, weight_on_input=apply_router_weight_on_input,
                           interleaved=interleaved, packed=packed, swiglu_alpha=swiglu_alpha,
                           swiglu_limit=swiglu_limit)
        if top_k > w1_shape[0] and expert_map is None:
            raise InvalidArgument(f"topk_ids has {top_k} columns: must be at most the {w1_shape[0]} experts of w1")
        if top_k > w1_shape[0]:
            raise Unsupported(f"topk_ids has {top_k} columns, and this rank only {w1_shape[0]} experts: each rank must "
                              "have at least top_k experts")
        kernel = cached_kernel(config, seen.device, key)
    if expert_map is not None:
        topk_ids = _map_ids(topk_ids, expert_map)
    biases = {} if w1_bias is None else {"b13": w1_bias, "b2": w2_bias}
    try:
        result = run_in_chunks(kernel, hidden_states, w1, w2, topk_weights, topk_ids, out, **biases)
    except InvalidArgument as error:
        raise _in_own_names(error) from None
    if inplace:
        if hasattr(hidden_states, "copy_"):
            return hidden_states.copy_(result)
        hidden_states[...] = result
        return hidden_states
    return result


def _check_weights(w1_shape: Tuple[int, ...], w2_shape: Tuple[int, ...], hidden: int, gated: bool) -> None:
    if w2_shape != (w1_shape[0], hidden, w2_shape[2]):
        raise InvalidArgument(f"w2 has shape {_tensors.shape_text(w2_shape)}: must be [E, H, I] = "
                              f"[{w1_shape[0]}, {hidden}, I]")
    rows = (2 if gated else 1) * w2_shape[2]
    if w1_shape[1:] != (rows, hidden):
        raise InvalidArgument(f"w1 has shape {_tensors.shape_text(w1_shape)}: must be [{w1_shape[0]}, {rows}, "
                              f"{hidden}] as w2 and hidden_states are")


_OWN_NAMES = {"x": "hidden_states", "w13": "w1", "b13": "w1_bias", "b2": "w2_bias"}


def _in_own_names(error: InvalidArgument) -> InvalidArgument:
    """The error of a kernel, whose arguments have other names."""
    name, space, rest = error.message.partition(" ")
    if name == "out" and rest.startswith("overlaps "):
        other = rest.split()[1].rstrip(":")
        rest = rest.replace(other, _OWN_NAMES.get(other, other), 1)
    return InvalidArgument(_OWN_NAMES.get(name, name) + space + rest, error.log)


def _is_unquantized(quant_config: Any) -> bool:
    """vLLM passes a FusedMoEQuantConfig whose quant_dtype is None for plain weights."""
    return (getattr(quant_config, "quant_dtype", 0) is None and not getattr(quant_config, "use_int4_w4a16", False)
            and not getattr(quant_config, "use_int8_w8a16", False) and getattr(quant_config, "w1_scale", None) is None)


def _map_ids(topk_ids: Any, expert_map: Any) -> Any:
    """Local ids, -1 where the expert is elsewhere or the id is none."""
    seen = _tensors.view("expert_map", expert_map)
    if len(seen.shape) != 1 or seen.dtype not in ("i32", "i64"):
        raise InvalidArgument(f"expert_map has shape {_tensors.shape_text(seen.shape)} and dtype {seen.dtype}: must be "
                              "[global_num_experts] of i32")
    count = seen.shape[0]
    for name, tensor in (("topk_ids", topk_ids), ("expert_map", expert_map)):
        if hasattr(tensor, "data_ptr") != hasattr(topk_ids, "data_ptr") or \
                not (hasattr(tensor, "data_ptr") or hasattr(tensor, "__array_interface__")):
            raise InvalidArgument(f"{name} has type {type(tensor).__name__}: topk_ids and expert_map must both be tensors "
                                  "of torch or of NumPy")
    if count == 0:
        raise InvalidArgument("expert_map has shape [0]: must be [global_num_experts]")
    if hasattr(topk_ids, "data_ptr"):
        index = topk_ids.long()
        mine = (index >= 0) & (index < count)
        local = expert_map.to(index.device)[index.clamp(0, count - 1)]
        return _tensors.int32_ids("expert_map", local.masked_fill(~mine, -1))
    import numpy

    index = numpy.asarray(topk_ids).astype("int64")
    mine = (index >= 0) & (index < count)
    local = numpy.asarray(expert_map)[index.clip(0, count - 1)]
    return _tensors.int32_ids("expert_map", numpy.where(mine, local, -1))


# A layer so small that choosing experts is all that it costs; its products are thrown away.
_ROUTE_WIDTH = 16


def route(router_logits: Any, top_k: int, *, scoring: str = "softmax", order: str = "score_then_topk",
          correction_bias: Any = None, n_group: int = 1, topk_group: int = 1, renormalize: bool = False,
          scaling_factor: float = 1.0, device: Any = None, max_tokens: int = _MAX_TOKENS) -> Tuple[Any, Any]:
    """Chooses experts: router_logits [T, E] (f32, bf16 or f16) -> topk_weights f32 [T, K], topk_ids int32 [T, K].

    The rules are RouterConfig's, and the code is the one that Kernel.routed has in front, so both give the same bits.
    Needs torch, NumPy or CuPy tensors. Enqueued on the current stream of a GPU.
    """
    seen = _tensors.view("router_logits", router_logits)
    if len(seen.shape) != 2:
        raise InvalidArgument(f"router_logits has shape {_tensors.shape_text(seen.shape)}: must be [T, E]")
    tokens, experts = seen.shape
    top_k = integer("top_k", top_k, -2**31, 2**31 - 1)
    place = seen.device if device is None else device
    router = RouterConfig(scoring=scoring, order=order, correction_bias=correction_bias is not None, n_group=n_group,
                          topk_group=topk_group, renormalize=renormalize, scaling_factor=float(scaling_factor))
    config = MoeConfig(num_experts=experts, top_k=top_k, hidden_size=_ROUTE_WIDTH, intermediate_size=_ROUTE_WIDTH,
                       dtype="f16", router=router)
    kernel = cached_kernel(config, place)
    w13, w2 = _route_weights(kernel, router_logits)
    ids = _new(router_logits, (tokens, top_k), "int32")
    weights = _new(router_logits, (tokens, top_k), "float32")
    for begin in range(0, tokens, kernel.max_tokens):
        rows = slice(begin, min(begin + kernel.max_tokens, tokens))
        count = rows.stop - begin
        kernel.routed(_new(router_logits, (count, _ROUTE_WIDTH), "float16", zero=True), w13, w2, router_logits[rows],
                      correction_bias=correction_bias, topk_ids=ids[rows], topk_weights=weights[rows])
    return weights, ids


def _route_weights(kernel: Kernel, like: Any) -> Tuple[Any, Any]:
    """Zeros, made once per kernel and kind of tensor."""
    root = type(like).__module__.partition(".")[0]
    kept = kernel.__dict__.setdefault("_route_weights", {})
    if root not in kept:
        experts = kernel.config.num_experts
        kept[root] = (_new(like, (experts, 2 * _ROUTE_WIDTH, _ROUTE_WIDTH), "float16", zero=True),
                      _new(like, (experts, _ROUTE_WIDTH, _ROUTE_WIDTH), "float16", zero=True))
    return kept[root]


def _new(like: Any, shape: Tuple[int, ...], dtype: str, zero: bool = False) -> Any:
    import sys

    if hasattr(like, "data_ptr"):
        torch = sys.modules["torch"]
        return (torch.zeros if zero else torch.empty)(shape, dtype=getattr(torch, dtype), device=like.device)
    root = type(like).__module__.partition(".")[0]
    if root not in ("numpy", "cupy"):
        raise InvalidArgument(f"router_logits is a tensor of {root}: must be one of torch, NumPy or CuPy")
    module = sys.modules[root]
    return (module.zeros if zero else module.empty)(shape, dtype=dtype)
