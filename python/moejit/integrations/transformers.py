"""Hugging Face transformers 5: importing this module registers experts_implementation="moejit".

    import moejit.integrations.transformers
    model = AutoModelForCausalLM.from_pretrained(path, experts_implementation="moejit")

or, on a model that is loaded, `moejit.integrations.transformers.enable(model)`, which also works on versions whose check of
the name knows only their own.

Closed world: a module is taken only if all of it is recognised (layout flags, gate function, activation, norm, dtype,
plain tensors). Anything else runs the framework's own path, and one line of the "moejit" logger says why. Gradients,
too, are the framework's. Ids outside [0, num_experts) (expert parallelism) add exactly 0.
"""

from __future__ import annotations

import importlib
import json
import logging
from typing import Any, Dict, List, Optional, Tuple

import torch
from transformers.integrations import moe

from .. import torch_ops  # noqa: F401  registers torch.ops.moejit
from .._tensors import int32_ids
from ..config import MoeConfig
from ..errors import InvalidArgument
from ..kernel import supports

NAME = "moejit"
_log = logging.getLogger("moejit")
_said: set = set()

# act_fn by the name of its class: what each computes is fixed by its name in every version of transformers 5.
_ACTIVATIONS = {
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "GELU": "gelu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "ReLUSquaredActivation": "relu2",
}

# Classes with a gate function of their own: (activation, attribute of the limit, attribute of alpha).
_GATES: Dict[str, Tuple[str, str, str]] = {
    "GptOssExperts": ("swiglu_oai", "limit", "alpha"),
    "MiniMaxM3VLExperts": ("swiglu_oai", "swiglu_limit", "swiglu_alpha"),
    "DeepseekV4Experts": ("silu_clamp", "limit", ""),
    "Glm5NextTextExperts": ("silu_clamp", "swiglu_limit", ""),
    "HYV4Experts": ("silu_clamp", "swiglu_limit", ""),
}
_FLAGS = ("has_gate", "has_bias", "is_transposed", "is_concatenated")
# (has_gate, has_bias) -> the tensors, weights first.
_TENSOR_NAMES = {
    (True, False): ("gate_up_proj", "down_proj"),
    (True, True): ("gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias"),
    (False, False): ("up_proj", "down_proj"),
    (False, True): ("up_proj", "down_proj", "up_proj_bias", "down_proj_bias"),
}
_DTYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
_QUANTISED = ("gate_up_proj_scale_inv", "up_proj_scale_inv", "down_proj_scale_inv", "gate_up_proj_weight_global_scale",
              "gate_up_proj_blocks")
# Attributes that recognise() reads and that are no tensors.
_PLAIN = (*_FLAGS, "has_post_expert_norm", "num_experts", "_apply_gate", "act_fn", "limit", "alpha", "swiglu_limit",
          "swiglu_alpha")


def recognise(module: Any) -> "Tuple[Optional[str], str]":
    """(the `layer` argument of torch.ops.moejit.fused_moe, "") or (None, why the module is not for moejit)."""
    for flag in _FLAGS:
        if not isinstance(getattr(module, flag, None), bool):
            return None, f"it has no flag {flag}"
    if getattr(module, "has_post_expert_norm", False):
        return None, "it has a norm after each expert"
    fields: Dict[str, Any] = {}
    if module.has_gate:
        reason = _gate(module, fields)
    else:
        reason = _activation(module, fields)
        fields["gated"] = False
    if reason:
        return None, reason
    names = _names(module)
    for name in names:
        reason = _tensor(getattr(module, name, None), name)
        if reason:
            return None, reason
    for name in _QUANTISED:
        if getattr(module, name, None) is not None:
            return None, f"it is quantised ({name})"
    weight = getattr(module, names[0])
    if module.is_transposed:
        fields["transposed"] = True
    if module.has_gate and not module.is_concatenated:
        fields["interleaved"] = True
    if weight.shape[0] != module.num_experts:
        return None, f"{names[0]} has {weight.shape[0]} experts, and num_experts is {module.num_experts}"
    if not torch.compiler.is_compiling():
        reason = _unsupported(module, fields)
        if reason:
            return None, reason
    return json.dumps(fields, sort_keys=True) if fields else "", ""


def _unsupported(module: Any, fields: Dict[str, Any]) -> str:
    """Why the library has no kernel for a layer of these sizes on this device, or nothing."""
    down = module.down_proj
    inner, hidden = (down.shape[1], down.shape[2]) if module.is_transposed else (down.shape[2], down.shape[1])
    layer = MoeConfig(num_experts=down.shape[0], top_k=1, hidden_size=hidden, intermediate_size=inner,
                      dtype=_DTYPES[down.dtype], bias=module.has_bias, **fields)
    try:
        return supports(layer, down.device) or ""
    except InvalidArgument as error:
        return error.message


def _names(module: Any) -> Tuple[str, ...]:
    """The tensors of a module that has all flags."""
    return _TENSOR_NAMES[module.has_gate, module.has_bias]


def _state(module: Any) -> "Optional[Tuple[Any, ...]]":
    """All that recognise() depends on, to compare with what it was; None where some of it is not plainly there.

    Read off the module's dictionaries: Module.__getattr__ would cost more than the rest of the call.
    """
    own = module.__dict__
    try:
        parameters, cls = own["_parameters"], type(module)
        function = own["_modules"].get("act_fn")
        tensors = [parameters[name] for name in _names(module)]
        return (cls, cls._apply_gate, function, function and function.__dict__.get("approximate"),
                tuple(map(own.get, _PLAIN)), tuple(own["_buffers"]), tuple(parameters),
                [name in own for name in _QUANTISED],
                [(type(t), t.data_ptr(), t.shape, t.stride(), t.dtype) for t in tensors])
    except (AttributeError, KeyError, TypeError, RuntimeError):
        return None


def _layer(module: Any) -> "Tuple[Optional[str], str]":
    """recognise(module), kept for as long as the module stays what it was."""
    if torch.compiler.is_compiling():  # which guards what recognise() reads
        return recognise(module)
    state = _state(module)
    known = module.__dict__.get("_moejit_layer")
    if state is not None and known is not None and known[0] == state:
        return known[1]
    found = recognise(module)
    module.__dict__["_moejit_layer"] = (state, found)
    return found


def _gate(module: Any, fields: Dict[str, Any]) -> str:
    cls = type(module)
    if "_apply_gate" in module.__dict__:
        return "it has a gate function that is not its class's"
    gate = getattr(cls, "_apply_gate", None)
    if gate is getattr(moe, "_default_apply_gate", moe):
        if not module.is_concatenated:
            return "its rows are interleaved, and its gate function is for rows that are not"
        return _activation(module, fields)
    known = _GATES.get(cls.__name__)
    if known is None or not cls.__module__.startswith("transformers.models.") \
            or getattr(gate, "__qualname__", "") != f"{cls.__name__}._apply_gate":
        return f"its gate function {getattr(gate, '__qualname__', gate)} is not known"
    activation, limit, alpha = known
    if activation == "silu_clamp" and getattr(module, "act_fn", None) is not None:
        reason = _activation(module, fields)
        if reason or fields.get("activation", "silu") != "silu":
            return reason or "its activation is not silu"
    fields["activation"] = activation
    for field, attribute in (("swiglu_limit", limit), ("swiglu_alpha", alpha)):
        if attribute:
            value = getattr(module, attribute, None)
            if not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                return f"{attribute} = {value!r} is no number"
            fields[field] = float(value)
    return ""


def _activation(module: Any, fields: Dict[str, Any]) -> str:
    function = getattr(module, "act_fn", None)
    name = type(function).__name__
    if name not in _ACTIVATIONS or isinstance(function, type(None)):
        return f"its activation {name} is not known"
    if name == "GELU" and getattr(function, "approximate", "none") != "none":
        return "its activation is an approximate GELU"
    if _ACTIVATIONS[name] != "silu":
        fields["activation"] = _ACTIVATIONS[name]
    return ""


def _tensor(tensor: Any, name: str) -> str:
    if not isinstance(tensor, torch.Tensor):
        return f"it has no {name}"
    if hasattr(tensor, "_local_tensor"):
        return f"{name} is a DTensor"
    if tensor.dtype not in _DTYPES:
        return f"{name} has dtype {tensor.dtype}"
    if not tensor.is_contiguous():
        return f"{name} is not contiguous"
    if tensor.device.type not in ("cpu", "cuda"):
        return f"{name} is on {tensor.device}"
    if not torch.compiler.is_compiling() and tensor.data_ptr() % 16 != 0:
        return f"{name} is not aligned to 16 bytes"
    return ""


def _refusal(module: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> str:
    """Why this call is not for moejit, or nothing. What may differ from call to call."""
    tensors = [getattr(module, name) for name in _names(module)]
    weight = tensors[0]
    if hidden_states.dtype != weight.dtype:
        return f"hidden states are {hidden_states.dtype} and weights {weight.dtype}"
    if hidden_states.dim() != 2 or top_k_index.dim() != 2 or top_k_weights.shape != top_k_index.shape:
        return f"top_k_weights has shape {list(top_k_weights.shape)}, and top_k_index {list(top_k_index.shape)}"
    if top_k_index.shape[1] > module.num_experts:
        return f"top_k {top_k_index.shape[1]} is more than the {module.num_experts} experts of this rank"
    if torch.is_grad_enabled() and any(t.requires_grad for t in (hidden_states, top_k_weights, *tensors)):
        return "a gradient is to be recorded (torch.no_grad() or torch.inference_mode() turns that off)"
    return ""


def experts_forward(self: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
    """What the registry holds: hidden_states [T, H], top_k_index and top_k_weights [T, K] -> [T, H]."""
    compiling = torch.compiler.is_compiling()
    layer, reason = _layer(self)
    if layer is not None:
        reason = _refusal(self, hidden_states, top_k_index, top_k_weights)
    if layer is None or reason:
        if not compiling:
            _say(self, reason)
        return _own_path(self)(self, hidden_states, top_k_index, top_k_weights)
    bias13 = bias2 = None
    if self.has_bias:
        bias13 = self.gate_up_proj_bias if self.has_gate else self.up_proj_bias
        bias2 = self.down_proj_bias
    ids = int32_ids("top_k_index", top_k_index) if top_k_index.dtype is torch.int64 else top_k_index.int()
    return torch.ops.moejit.fused_moe(
        hidden_states.contiguous(), self.gate_up_proj if self.has_gate else self.up_proj, self.down_proj,
        top_k_weights.float().contiguous(), ids.contiguous(), bias13, bias2, layer)


def _own_path(module: Any) -> Any:
    """The framework's default, where the module has what that reads; else the class's plain loop."""
    down = getattr(module, "down_proj", None)
    whole = isinstance(down, torch.Tensor) and all(size * down.element_size() % 16 == 0
                                                   for size in down.shape[1:])  # torch's grouped products want that
    if whole and all(hasattr(module, flag) for flag in _FLAGS):
        for name in ("grouped_mm", "batched_mm"):
            if name in moe.ALL_EXPERTS_FUNCTIONS:
                return moe.ALL_EXPERTS_FUNCTIONS[name]
    return type(module).forward.__wrapped__


def _say(module: Any, reason: str) -> None:
    key = (type(module).__name__, reason)
    if key not in _said:
        _said.add(key)
        _log.warning("transformers: %s runs the framework's own path: %s", *key)


def _quantised_registries() -> List[Any]:
    found = []
    for module, names in (("finegrained_fp8", ("ALL_FP8_EXPERTS_FUNCTIONS",)),
                          ("finegrained", ("ALL_FINEGRAINED_EXPERTS_FUNCTIONS", "ALL_FP8_EXPERTS_FUNCTIONS")),
                          ("finegrained.core", ("ALL_FINEGRAINED_EXPERTS_FUNCTIONS",))):
        try:
            loaded = importlib.import_module(f"transformers.integrations.{module}")
        except ImportError:
            continue
        for name in names:
            registry = getattr(loaded, name, None)
            if registry is not None and all(registry is not one for one in found):
                found.append(registry)
    return found


def _quantised_forward(registry: Any) -> Any:
    """For the registry of quantised experts: moejit has no quantised weights, so another of its functions runs."""

    def quantised_experts_forward(self: Any, *arguments: Any, **keywords: Any) -> Any:
        _say(self, "quantised weights are not supported")
        for name in ("grouped_mm", "batched_mm"):
            if name in registry:
                return registry[name](self, *arguments, **keywords)
        return type(self).forward.__wrapped__(self, *arguments, **keywords)

    quantised_experts_forward.moejit = True  # type: ignore[attr-defined]
    return quantised_experts_forward


def register() -> None:
    """Puts the functions into the registries; again is fine, over somebody else's function is an error."""
    registries = [(moe.ALL_EXPERTS_FUNCTIONS, experts_forward)]
    registries += [(registry, _quantised_forward(registry)) for registry in _quantised_registries()
                   if registry is not moe.ALL_EXPERTS_FUNCTIONS]
    for registry, function in registries:
        present = registry[NAME] if NAME in registry else None
        if present is experts_forward or getattr(present, "moejit", False):
            # A registry that inherits another's map shows the plain function: it needs its own.
            if present is function or getattr(present, "moejit", False):
                continue
        elif present is not None:
            raise RuntimeError(f"experts_implementation={NAME!r} is registered already, by {present!r}")
        if hasattr(type(registry), "register"):
            type(registry).register(NAME, function)
        else:  # the first release had a plain mapping
            registry[NAME] = function


def experts_modules(model: Any) -> Dict[str, Any]:
    """The experts of a model by name: modules whose forward is chosen by the registry."""
    return {name: module for name, module in model.named_modules()
            if hasattr(module, "down_proj") and hasattr(type(module).forward, "__wrapped__")
            and hasattr(module, "num_experts")}


def report(model: Any) -> Dict[str, str]:
    """Name of each experts module -> "" where moejit takes it, else why not."""
    return {name: recognise(module)[1] for name, module in experts_modules(model).items()}


def enable(model: Any) -> int:
    """Switches a loaded model to moejit and returns how many of its experts modules are taken.

    Sets the implementation in the config of the model and of each experts module, without the framework's check of the
    name, which early versions of 5 hold against a fixed list. Logs how many modules it reached.
    """
    modules = experts_modules(model)
    configs = [model.config] + [module.config for module in modules.values() if hasattr(module, "config")]
    configs += [getattr(module.config, key) for module in [model] for key in getattr(model.config, "sub_configs", {})
                if getattr(module.config, key, None) is not None]
    for config in configs:
        config._experts_implementation_internal = NAME
    reasons = report(model)
    taken = sum(1 for reason in reasons.values() if not reason)
    if not modules:
        _log.warning("transformers: no experts module that chooses its implementation is in %s", type(model).__name__)
    else:
        _log.info("transformers: %d of %d experts modules use moejit", taken, len(modules))
        for reason in sorted(set(filter(None, reasons.values()))):
            _log.warning("transformers: %d of them do not: %s", list(reasons.values()).count(reason), reason)
    return taken


register()
