"""The description of one MoE layer. Field by field as MoeConfig in include/moejit/config.h."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import operator
import os
from typing import Any, Dict, Union

from ._library import library
from .errors import InvalidArgument, NotFound

ConfigLike = Union["MoeConfig", Dict[str, Any], str]


def integer(name: str, value: Any, low: int, high: int) -> int:
    """value as an int: what ctypes would take silently cut, or refuse without the argument's name."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidArgument(f"{name} = {value!r}: must be an integer") from None
    if not low <= number <= high:
        raise InvalidArgument(f"{name} = {number}: must be between {low} and {high}")
    return number


def c_text(name: str, text: str) -> bytes:
    """For a char*, which ends at a NUL."""
    if "\0" in text:
        raise InvalidArgument(f"{name} = {text!r}: must not hold a NUL character")
    return text.encode()


def json_text(fields: Dict[str, Any]) -> str:
    """JSON, which has no infinity and no NaN; InvalidArgument names the field that is one."""
    def check(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                check(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                check(name, inner)
        elif isinstance(value, float) and not math.isfinite(value):
            raise InvalidArgument(f"{name} = {value}: must be finite")

    check("", fields)
    return json.dumps(fields)


@dataclasses.dataclass(frozen=True)
class RouterConfig:
    """How logits [T, E] become top_k (id, weight) pairs per token.

    scoring: "softmax", "sigmoid" or "sqrtsoftplus".  order: "score_then_topk" or "topk_then_score".
    correction_bias: an f32 [E] is added for the selection only.  Experts are cut into n_group equal runs,
    and only the topk_group best may be selected from.  renormalize divides the weights by their sum;
    scaling_factor multiplies them last.
    """

    scoring: str = "softmax"
    order: str = "score_then_topk"
    correction_bias: bool = False
    n_group: int = 1
    topk_group: int = 1
    renormalize: bool = False
    scaling_factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class MoeConfig:
    """One layer: E = num_experts routed experts, of which each token visits K = top_k.

    Shapes, all dense and row-major, 16-byte aligned, of `dtype` ("f32", "bf16" or "f16"):
      x, out [T, H];  w13 [E, 2I, H]: I gate rows, then I up rows;  w2 [E, H, I];
      with `bias` b13 [E, 2I] and b2 [E, H].
    gated=False: w13 is [E, I, H] and there is no product with up.  transposed: w13 [E, H, 2I], w2 [E, I, H].
    interleaved: gate and up rows alternate.  up_first: up before gate.
    packed: w13 and w2 are what pack_weights made of weights that the three flags before describe (of the CPU alone);
    b13 stays as they say.
    Shared experts are the last num_shared_experts ones of w13 and w2; every token visits them with weight 1.
    activation: "silu", "gelu", "gelu_tanh", "relu2", "swiglu_oai" or "silu_clamp".

    Immutable and hashable. The library checks the values when they are first used; `check()` does so now.
    """

    num_experts: int
    top_k: int
    hidden_size: int
    intermediate_size: int
    dtype: str = "bf16"
    activation: str = "silu"
    gated: bool = True
    bias: bool = False
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0
    transposed: bool = False
    interleaved: bool = False
    up_first: bool = False
    packed: bool = False
    num_shared_experts: int = 0
    weight_on_input: bool = False
    router: RouterConfig = dataclasses.field(default_factory=RouterConfig)

    def __post_init__(self) -> None:
        for name in ("num_experts", "top_k", "hidden_size", "intermediate_size", "num_shared_experts"):
            value = getattr(self, name)
            if type(value) is not int and not isinstance(value, bool) and hasattr(value, "__index__"):
                object.__setattr__(self, name, operator.index(value))  # NumPy's integers
        if isinstance(self.router, dict):
            object.__setattr__(self, "router", RouterConfig(**self.router))

    def to_dict(self) -> Dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Canonical JSON: equal layers give equal text. Raises InvalidArgument or DataError."""
        with ConfigHandle.of(self) as handle:
            return handle.json()

    def check(self) -> "MoeConfig":
        """self, or InvalidArgument that names the first field that breaks a rule, its value and the rule."""
        self.to_json()
        return self

    def replace(self, **fields: Any) -> "MoeConfig":
        """The same layer with other values in some fields."""
        return dataclasses.replace(self, **fields)

    def shard(self, tp: int) -> "MoeConfig":
        """The layer as one of `tp` tensor-parallel ranks holds it; the caller sums the ranks' outputs."""
        with ConfigHandle.of(self) as handle:
            return handle.shard(tp)

    @staticmethod
    def from_json(text: str) -> "MoeConfig":
        """From what to_json writes, or any part of it that has the first four fields."""
        with ConfigHandle.from_json(text) as handle:
            return handle.config()

    @staticmethod
    def from_preset(name: str) -> "MoeConfig":
        """A layer of a published model, "qwen3-30b-a3b"; NotFound names the nearest."""
        with ConfigHandle("moejit_config_from_preset", name) as handle:
            return handle.config()

    @staticmethod
    def from_hf(source: "Union[str, os.PathLike[str], Dict[str, Any]]") -> "MoeConfig":
        """From a Hugging Face model directory, its config.json, or the file's content as a dict.

        DataError names the key that is missing or wrong, Unsupported what moejit has not.
        """
        if isinstance(source, dict):
            text = json.dumps(source)
        else:
            path = os.fspath(source)
            if os.path.isdir(path):
                path = os.path.join(path, "config.json")
            try:
                with open(path, encoding="utf-8") as file:
                    text = file.read()
            except OSError as error:
                raise NotFound(f"source = {path!r}: {error.strerror or error}") from None
        with ConfigHandle("moejit_config_from_hf_json", text) as handle:
            return handle.config()


class ConfigHandle:
    """Owns a moejit_config; a context manager."""

    def __init__(self, function: str, *arguments: Any) -> None:
        self._lib = library()
        self.pointer = ctypes.c_void_p()
        encoded = [c_text("config", a) if isinstance(a, str) else a for a in arguments]
        self._lib.check(getattr(self._lib.c, function)(*encoded, ctypes.byref(self.pointer)))

    @classmethod
    def from_json(cls, text: str) -> "ConfigHandle":
        return cls("moejit_config_from_json", text)

    @classmethod
    def of(cls, config: MoeConfig) -> "ConfigHandle":
        fields = config.to_dict()
        try:
            text = json_text(fields)
        except TypeError:
            for name, value in fields.items():
                if not isinstance(value, (str, int, float, dict)):
                    raise InvalidArgument(f"{name} = {value!r}: has type {type(value).__name__}, which no field of "
                                          "MoeConfig has") from None
            raise InvalidArgument(f"router = {config.router!r}: its fields must be strings, numbers and bools") from None
        return cls.from_json(text)

    def __enter__(self) -> "ConfigHandle":
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.c.moejit_config_destroy(self.pointer)
        self.pointer = ctypes.c_void_p()

    def json(self) -> str:
        return self._lib.c.moejit_config_json(self.pointer).decode()

    def config(self) -> MoeConfig:
        return MoeConfig(**json.loads(self.json()))

    def shard(self, tp: int) -> MoeConfig:
        with ConfigHandle("moejit_config_shard", self.pointer, int(tp)) as handle:
            return handle.config()


def as_config(config: ConfigLike) -> MoeConfig:
    """A MoeConfig as it is; a dict of its fields; a preset's name; JSON; a path of a model directory."""
    if isinstance(config, MoeConfig):
        return config
    if isinstance(config, dict):
        unknown = set(config) - {field.name for field in dataclasses.fields(MoeConfig)}
        if unknown:
            raise InvalidArgument(f"config: no field {sorted(unknown)[0]!r}; the fields are those of MoeConfig")
        try:
            return MoeConfig(**config)
        except TypeError as error:
            raise InvalidArgument(f"config: {error}") from None
    if isinstance(config, (str, os.PathLike)):
        text = os.fspath(config)
        if text.lstrip().startswith("{"):
            return MoeConfig.from_json(text)
        if os.path.exists(text) or not isinstance(config, str) or text.startswith(("/", ".")) or text.endswith(".json"):
            return MoeConfig.from_hf(text)
        return MoeConfig.from_preset(text)
    raise InvalidArgument(f"config has type {type(config).__name__}: must be a MoeConfig, a dict, a preset's name, "
                          "JSON text or the path of a model directory")
