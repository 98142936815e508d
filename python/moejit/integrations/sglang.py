"""SGLang: a MoE runner named "moejit", for `--moe-runner-backend moejit`.

Installed, the entry point of the group `sglang.srt.plugins` calls register() in every process of the server;
MOEJIT_SGLANG=0 turns it off, as does SGLANG_PLUGINS without "moejit" in it. Needs a version of SGLang with
`register_moe_runner_core`; on older ones register() logs what is missing and changes nothing.

Layers that moejit does not compute (quantised weights, activations of other kinds) raise Unsupported with the reason when
the server starts to use them: the runner was asked for by name, so nothing is replaced in silence.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any, Optional

from ..errors import Unsupported

NAME = "moejit"
_log = logging.getLogger("moejit")
_registered = False

_QUANTISED = ("use_fp8_w8a8", "use_int8_w8a8", "use_int8_w8a16", "use_int4_w4a16", "use_mxfp8", "per_channel_quant",
              "w13_scale", "w2_scale", "w13_zp", "w2_zp", "a13_scale", "a2_scale", "block_shape")


def why_not(quant_info: Any, config: Any) -> str:
    """Why a layer is not for moejit, or nothing."""
    for name in _QUANTISED:
        value = getattr(quant_info, name, None)
        if value is not None and value is not False:
            return f"{name} is set: quantised weights are not supported"
    if getattr(config, "no_combine", False):
        return "no_combine: the sum over experts is part of the kernel"
    if _activation(config) is None:
        return f"activation {getattr(config, 'activation', None)!r} is not known"
    return ""


def _activation(config: Any) -> Optional[str]:
    """The name that fused_experts takes."""
    name = getattr(config, "activation", "silu")
    if getattr(config, "gemm1_alpha", None) is not None:
        return "swigluoai" if name == "silu" else None
    if getattr(config, "gemm1_clamp_limit", None) is not None:
        return None
    if name not in ("silu", "gelu", "relu2"):
        return None
    return name if getattr(config, "is_gated", True) else name + "_no_mul"


def run(dispatch_output: Any, quant_info: Any, config: Any) -> Any:
    """The layer on what SGLang's dispatcher gives: hidden states [T, H] -> [T, H]."""
    from ..ops import fused_experts

    reason = why_not(quant_info, config)
    if reason:
        raise Unsupported(f"SGLang's runner {NAME!r}: {reason}")
    topk = dispatch_output.topk_output
    activation = _activation(config)
    keywords = {}
    if activation == "swigluoai":
        # gpt-oss: rows of gate and up alternate.
        keywords = {"swiglu_alpha": float(config.gemm1_alpha), "interleaved": True,
                    "swiglu_limit": float(getattr(config, "gemm1_clamp_limit", None) or 7.0)}
    # Ids of other ranks are -1 or >= num_local_experts by now; both add nothing.
    out = fused_experts(dispatch_output.hidden_states, quant_info.w13_weight, quant_info.w2_weight, topk.topk_weights,
                        topk.topk_ids, inplace=bool(getattr(config, "inplace", False)), activation=activation,
                        apply_router_weight_on_input=bool(getattr(config, "apply_router_weight_on_input", False)),
                        w1_bias=getattr(quant_info, "b13", None), w2_bias=getattr(quant_info, "b2", None), **keywords)
    scale = getattr(config, "routed_scaling_factor", None)
    return out if scale is None or scale == 1.0 else out.mul_(scale)


def register() -> bool:
    """The plugin's entry point. True where the runner is registered; never raises, and logs what it did."""
    global _registered
    if _registered:
        return True
    if os.environ.get("MOEJIT_SGLANG", "1") in ("0", "off", "no"):
        _log.info("sglang: not registered, as MOEJIT_SGLANG turns it off")
        return False
    try:
        runner = importlib.import_module("sglang.srt.layers.moe.moe_runner.runner")
        base = importlib.import_module("sglang.srt.layers.moe.moe_runner.base")
        utils = importlib.import_module("sglang.srt.layers.moe.utils")
        dispatcher = importlib.import_module("sglang.srt.layers.moe.token_dispatcher.standard")
        core_base = base.DispatchMoeRunnerCore
        register_core = runner.register_moe_runner_core
        resolve = utils.resolve_moe_runner_backend
        combine_input = dispatcher.StandardCombineInput
    except (ImportError, AttributeError) as error:
        _log.warning("sglang: not registered: this version has no public registry of MoE runners (%s)", error)
        return False

    class MoejitRunnerCore(core_base):  # type: ignore[misc,valid-type]
        """DispatchMoeRunnerCore over moejit's kernels."""

        def __init__(self, config: Any, backend: Any) -> None:
            super().__init__(config)
            self._moejit_backend = backend

        @property
        def runner_backend(self) -> Any:
            return self._moejit_backend

        def run_from_dispatch(self, dispatch_output: Any, quant_info: Any, runner_config: Any,
                              hooks: Any = None) -> Any:
            if hooks is not None:
                raise Unsupported(f"SGLang's runner {NAME!r}: hooks between the two products are not supported")
            return combine_input(hidden_states=run(dispatch_output, quant_info, runner_config))

    try:
        register_core(NAME, lambda config: MoejitRunnerCore(config, resolve(NAME)))
        add_choices = getattr(importlib.import_module("sglang.srt.server_args"), "add_moe_runner_backend_choices", None)
        if add_choices is not None:
            add_choices([NAME])
    except Exception as error:  # an engine must start without us
        _log.warning("sglang: not registered: %s: %s", type(error).__name__, error)
        return False
    _registered = True
    _log.info("sglang: --moe-runner-backend %s is registered", NAME)
    return True
