"""The layer in float64, as plainly as NumPy can say it, and problems of fixed seed."""

import math

import numpy as np


def bf16_bits(values):
    """float32 -> the bits of bf16, to nearest even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bits(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def silu(g):
    return g / (1 + np.exp(-g))


def act(config, gate, up):
    name = config.activation
    if name == "swiglu_oai":
        gate = np.minimum(gate, config.swiglu_limit)
        up = np.clip(up, -config.swiglu_limit, config.swiglu_limit)
        return gate / (1 + np.exp(-config.swiglu_alpha * gate)) * (up + 1)
    if name == "silu_clamp":
        gate = np.minimum(gate, config.swiglu_limit)
        up = np.clip(up, -config.swiglu_limit, config.swiglu_limit) if up is not None else None
        value = silu(gate)
    elif name == "silu":
        value = silu(gate)
    elif name == "gelu":
        value = 0.5 * gate * (1 + np.vectorize(math.erf)(gate / math.sqrt(2)))
    elif name == "gelu_tanh":
        value = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate ** 3)))
    else:
        value = np.maximum(gate, 0) ** 2
    return value if up is None else value * up


def layer(config, x, w13, w2, weights, ids, b13=None, b2=None):
    """out [T, H] in float64. w13 and w2 as the config lays them out."""
    x, w13, w2 = (np.asarray(a, dtype=np.float64) for a in (x, w13, w2))
    if config.transposed:
        w13, w2 = w13.swapaxes(1, 2), w2.swapaxes(1, 2)
    out = np.zeros_like(x)
    for t in range(x.shape[0]):
        for k in range(ids.shape[1]):
            e = int(ids[t, k])
            if not 0 <= e < config.num_experts:
                continue
            row = x[t] * weights[t, k] if config.weight_on_input else x[t]
            product = w13[e] @ row + (b13[e] if b13 is not None else 0)
            if config.gated:
                gate, up = (product[0::2], product[1::2]) if config.interleaved else np.split(product, 2)
                if config.up_first:
                    gate, up = up, gate
            else:
                gate, up = product, None
            y = w2[e] @ act(config, gate, up) + (b2[e] if b2 is not None else 0)
            out[t] += y if config.weight_on_input else weights[t, k] * y
    return out


class Problem:
    """Random inputs of a config as float32 arrays that the dtype can hold."""

    def __init__(self, config, tokens, seed=0):
        random = np.random.default_rng(seed)
        c = self.config = config
        rows = (2 if c.gated else 1) * c.intermediate_size
        shapes = ((c.num_experts, c.hidden_size, rows), (c.num_experts, c.intermediate_size, c.hidden_size))
        if not c.transposed:
            shapes = tuple((e, b, a) for e, a, b in shapes)
        self.x = self.rounded(random.standard_normal((tokens, c.hidden_size)))
        self.w13 = self.rounded(random.standard_normal(shapes[0]) * c.hidden_size ** -0.5)
        self.w2 = self.rounded(random.standard_normal(shapes[1]) * c.intermediate_size ** -0.5)
        self.b13 = self.rounded(random.standard_normal((c.num_experts, rows))) if c.bias else None
        self.b2 = self.rounded(random.standard_normal((c.num_experts, c.hidden_size))) if c.bias else None
        self.ids = np.stack([random.permutation(c.num_experts)[:c.top_k] for _ in range(tokens)]).astype(np.int32) \
            if tokens else np.zeros((0, c.top_k), np.int32)
        self.weights = random.random((tokens, c.top_k), dtype=np.float32)

    def rounded(self, values):
        values = values.astype(np.float32)
        if self.config.dtype == "bf16":
            return from_bits(bf16_bits(values))
        return values.astype(np.float16).astype(np.float32) if self.config.dtype == "f16" else values

    def native(self, values):
        """As NumPy holds the dtype: bf16 as its bits."""
        if values is None or self.config.dtype == "f32":
            return values
        return bf16_bits(values) if self.config.dtype == "bf16" else values.astype(np.float16)

    def arguments(self):
        return (self.native(self.x), self.native(self.w13), self.native(self.w2), self.weights, self.ids)

    def biases(self):
        return {"b13": self.native(self.b13), "b2": self.native(self.b2)} if self.config.bias else {}

    def expected(self):
        return layer(self.config, self.x, self.w13, self.w2, self.weights, self.ids, self.b13, self.b2)


TOLERANCE = {"f32": 1e-5, "f16": 2e-3, "bf16": 1e-2}


def error(got, want):
    """Relative Frobenius error."""
    got = from_bits(got) if got.dtype == np.uint16 else np.asarray(got, dtype=np.float64)
    size = np.linalg.norm(want)
    return np.linalg.norm(got - want) / (size if size else 1)
