#!/usr/bin/env python3
"""What a call from Python costs besides the launch: best of many, microseconds. Needs torch; libmoejit as for peers.py.

A layer of one token, so small that the launch is short; what the launch itself takes, measured through ctypes with the
arguments ready, is taken off. "checks" is the same with no token, where the library returns after its checks.
"""

import os
import sys
import time

os.environ.setdefault("MOEJIT_NUM_THREADS", "1")
sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "python"))

import torch  # noqa: E402

import moejit  # noqa: E402
import moejit.torch_ops  # noqa: E402
from moejit._library import LAUNCH_ARGS  # noqa: E402


def best(call, rounds=400, calls=100):
    shortest = float("inf")
    for _ in range(rounds):
        if torch.cuda.is_initialized():  # or the queue would be full, and the calls wait for the GPU
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        shortest = min(shortest, (time.perf_counter() - begin) / calls)
    return shortest * 1e6


def main():
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    kernel = moejit.get_kernel(num_experts=4, top_k=1, hidden_size=32, intermediate_size=32, device=device, max_tokens=1)
    dtype = dict(dtype=torch.bfloat16, device=device)
    x, w13, w2 = torch.randn(1, 32, **dtype), torch.randn(4, 64, 32, **dtype), torch.randn(4, 32, 32, **dtype)
    weights, ids = torch.ones(1, 1, device=device), torch.zeros(1, 1, dtype=torch.int32, device=device)
    out = torch.empty_like(x)
    with torch.inference_mode():
        kernel(x, w13, w2, weights, ids, out)
        (stream, (_, workspace, size, _)), = kernel._workspaces.by_stream.items()
        pointers = [tensor.data_ptr() for tensor in (x, w13, w2)]
        ready = LAUNCH_ARGS.pack(LAUNCH_ARGS.size, 0, 1, *pointers, 0, 0, ids.data_ptr(), weights.data_ptr(),
                                 out.data_ptr(), workspace, size)
        checks = LAUNCH_ARGS.pack(LAUNCH_ARGS.size, 0, 0, *pointers, 0, 0, ids.data_ptr(), weights.data_ptr(),
                                  out.data_ptr(), workspace, size)
        op = torch.ops.moejit.fused_moe
        op_out = torch.ops.moejit.fused_moe_out
        op(x, w13, w2, weights, ids)
        cases = {
            "kernel(..., out)": lambda: kernel(x, w13, w2, weights, ids, out),
            "kernel(...)": lambda: kernel(x, w13, w2, weights, ids),
            "torch.ops.moejit.fused_moe_out": lambda: op_out(x, w13, w2, weights, ids, out),
            "torch.ops.moejit.fused_moe": lambda: op(x, w13, w2, weights, ids),
            "fused_experts(...)": lambda: moejit.fused_experts(x, w13, w2, weights, ids),
            "torch.empty_like alone": lambda: torch.empty_like(x),
        }
        launch = best(lambda: kernel._launch(kernel._pointer, ready, stream))
        foreign = best(lambda: kernel._launch(kernel._pointer, checks, stream))
        print(f"launch through ctypes {launch:.2f} us, of which ctypes and checks {foreign:.2f} us")
        for name, call in cases.items():
            whole = best(call)
            over = whole if "alone" in name else whole - launch + foreign
            print(f"{name:32} {whole:6.2f} us, overhead {over:5.2f} us")


if __name__ == "__main__":
    main()
