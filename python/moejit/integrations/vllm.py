"""vLLM: moejit for layers whose weights are not quantised, as a plugin out of tree.

Installed, the entry point of the group `vllm.general_plugins` calls register() in every process, which swaps the class
`UnquantizedFusedMoEMethod` where vLLM makes one. It does so only where MOEJIT_VLLM=1 asks for it (kill switch: unset it),
and only on versions whose interface is the one below; else it logs why and changes nothing.

Closed world: a layer that moejit does not compute (another activation, weights on the input of a rank that vLLM has
re-laid out, ...) goes to vLLM's own method, and a line says why.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
from typing import Any, Optional, Tuple

NAME = "UnquantizedFusedMoEMethod"
MIN_VERSION, BELOW_VERSION = (0, 12), (0, 30)
_log = logging.getLogger("moejit")
_registered = False
_said: set = set()

_ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "swigluoai", "relu2_no_mul", "silu_no_mul", "gelu_no_mul")


def version_of(text: str) -> Tuple[int, int]:
    """(major, minor) of "0.19.1rc2+cu130"; (0, 0) where that is no version."""
    parts = text.split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (IndexError, ValueError):
        return 0, 0


def why_not(layer: Any) -> str:
    """Why a layer is not for moejit, or nothing."""
    name = getattr(getattr(layer, "activation", "silu"), "value", getattr(layer, "activation", "silu"))
    if name not in _ACTIVATIONS:
        return f"activation {name!r} is not known"
    for weight in ("w13_weight", "w2_weight"):
        tensor = getattr(layer, weight, None)
        if tensor is None or tensor.dim() != 3:
            return f"{weight} is not of three dimensions: vLLM has re-laid it out for another kernel"
        if not tensor.is_contiguous():
            return f"{weight} is not contiguous"
    inner = layer.w2_weight.shape[2]
    rows = inner if str(name).endswith("_no_mul") else 2 * inner
    if layer.w13_weight.shape[1] != rows or layer.w13_weight.shape[2] != layer.w2_weight.shape[1]:
        return f"w13_weight has shape {list(layer.w13_weight.shape)}, and w2_weight {list(layer.w2_weight.shape)}"
    if getattr(layer, "enable_eplb", False):
        return "expert load balancing moves experts while the server runs"
    return ""


def apply(layer: Any, x: Any, topk_weights: Any, topk_ids: Any) -> Any:
    """The layer: x [T, H] -> [T, H]; experts of other ranks add nothing."""
    from ..ops import fused_experts

    # gpt-oss, the user of swigluoai: rows of gate and up alternate.
    activation = layer.activation
    interleaved = getattr(activation, "value", activation) == "swigluoai"
    return fused_experts(x, layer.w13_weight, layer.w2_weight, topk_weights, topk_ids, activation=activation,
                         apply_router_weight_on_input=bool(getattr(layer, "apply_router_weight_on_input", False)),
                         global_num_experts=getattr(layer, "global_num_experts", -1),
                         expert_map=getattr(layer, "expert_map", None), w1_bias=getattr(layer, "w13_bias", None),
                         w2_bias=getattr(layer, "w2_bias", None), interleaved=interleaved)


def _say(reason: str) -> None:
    if reason not in _said:
        _said.add(reason)
        _log.warning("vllm: a layer runs vLLM's own method: %s", reason)


def make_method(base: Any) -> Any:
    """The class that vLLM makes instead of `base`."""

    class MoejitFusedMoEMethod(base):  # type: ignore[misc,valid-type]
        """UnquantizedFusedMoEMethod over moejit's kernels."""

        def process_weights_after_loading(self, layer: Any) -> None:
            # Before vLLM may re-lay the weights out for a kernel of its own: ours take them as loaded.
            reason = why_not(layer)
            if reason:
                _say(reason)
            layer._moejit = not reason
            if reason:
                super().process_weights_after_loading(layer)

        def apply(self, layer: Any, x: Any, topk_weights: Any, topk_ids: Any, *more: Any, **keywords: Any) -> Any:
            if not getattr(layer, "_moejit", False):
                return super().apply(layer, x, topk_weights, topk_ids, *more, **keywords)
            return apply(layer, x, topk_weights, topk_ids)

    return MoejitFusedMoEMethod


def _interface(base: Any) -> Optional[str]:
    """Why the class is not of the kind that make_method derives from, or None."""
    method = getattr(base, "apply", None)
    names = list(inspect.signature(method).parameters)[1:5] if method is not None else []
    if names != ["layer", "x", "topk_weights", "topk_ids"]:
        return f"{NAME}.apply takes ({', '.join(names)}, ...)"
    if not hasattr(base, "process_weights_after_loading"):
        return f"{NAME} has no process_weights_after_loading"
    return None


def register() -> bool:
    """The plugin's entry point. True where the class is swapped; never raises, and logs what it did."""
    global _registered
    if _registered:
        return True
    if os.environ.get("MOEJIT_VLLM", "0") not in ("1", "on", "yes"):
        _log.info("vllm: not registered; MOEJIT_VLLM=1 turns it on")
        return False
    try:
        version = importlib.import_module("vllm").__version__
        if not MIN_VERSION <= version_of(version) < BELOW_VERSION:
            _log.warning("vllm: not registered: version %s, and the plugin is for %s up to but not %s", version,
                         ".".join(map(str, MIN_VERSION)), ".".join(map(str, BELOW_VERSION)))
            return False
        custom_op = importlib.import_module("vllm.model_executor.custom_op").CustomOp
        base = None
        for place in ("vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method",
                      "vllm.model_executor.layers.fused_moe.layer"):
            try:
                base = getattr(importlib.import_module(place), NAME)
                break
            except (ImportError, AttributeError):
                continue
        if base is None:
            _log.warning("vllm: not registered: no class %s", NAME)
            return False
        reason = _interface(base)
        if reason:
            _log.warning("vllm: not registered: %s", reason)
            return False
        custom_op.register_oot(make_method(base), name=NAME)
    except Exception as error:  # an engine must start without us
        _log.warning("vllm: not registered: %s: %s", type(error).__name__, error)
        return False
    _registered = True
    _log.info("vllm: layers without quantisation use moejit")
    return True
