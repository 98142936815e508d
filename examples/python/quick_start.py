#!/usr/bin/env python3
"""One MoE layer with NumPy: get a kernel, route, run, compare with a plain loop. Needs moejit, moejit-cpu and NumPy."""

import time

import numpy as np

import moejit

# 1. Describe the layer. E experts, K of them per token, hidden size H, intermediate size I.
config = moejit.MoeConfig(num_experts=16, top_k=4, hidden_size=512, intermediate_size=256, dtype="f32",
                          router=moejit.RouterConfig(scoring="softmax", renormalize=True))

# 2. Get its kernel. The first time this compiles (0.3 s on a CPU); afterwards it comes from the cache.
begin = time.perf_counter()
kernel = moejit.get_kernel(config, device="cpu", max_tokens=64)
print(f"{kernel} in {time.perf_counter() - begin:.3f} s")

# 3. Tensors, as vLLM and transformers lay them out: w13 holds I gate rows, then I up rows.
random = np.random.default_rng(0)
tokens = 8
x = random.standard_normal((tokens, config.hidden_size), dtype=np.float32)
w13 = random.standard_normal((config.num_experts, 2 * config.intermediate_size, config.hidden_size), dtype=np.float32) * 0.05
w2 = random.standard_normal((config.num_experts, config.hidden_size, config.intermediate_size), dtype=np.float32) * 0.05
logits = random.standard_normal((tokens, config.num_experts), dtype=np.float32)

# 4. Run it: with ids and weights that you chose, or with the router in front.
weights, ids = moejit.route(logits, config.top_k, renormalize=True)
out = kernel(x, w13, w2, weights, ids)
same = kernel.routed(x, w13, w2, logits)
print("both ways give the same bits:", np.array_equal(out, same))

# 5. Compare with the definition.
want = np.zeros_like(x)
for t in range(tokens):
    for k in range(config.top_k):
        gate, up = np.split(w13[ids[t, k]] @ x[t], 2)
        want[t] += weights[t, k] * (w2[ids[t, k]] @ (gate / (1 + np.exp(-gate)) * up))
print(f"relative error: {np.linalg.norm(out - want) / np.linalg.norm(want):.1e}")

# 6. A call, timed. `moejit.tune(config, tokens=[8])` would look for a faster schedule and keep it.
times = []
for _ in range(50):
    begin = time.perf_counter()
    kernel(x, w13, w2, weights, ids, out)
    times.append(time.perf_counter() - begin)
print(f"{tokens} tokens: {sorted(times)[25] * 1e6:.0f} us")

# 7. Mistakes name the argument, the value and the rule.
try:
    kernel(x, w13, w2[:, :, :100], weights, ids)
except moejit.InvalidArgument as error:
    print("refused:", error.message)
