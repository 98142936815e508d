#!/usr/bin/env python3
"""Expert parallelism: each rank holds some of the experts, skips the ids of others, and one all-reduce sums up.

    torchrun --nproc-per-node 2 examples/python/expert_parallel.py       # NCCL on GPUs, gloo on the CPU

Each rank starts with all tokens, as after attention with replicated activations. The sum equals the result of one
process that holds every expert.
"""

import os

import torch
import torch.distributed as dist

import moejit


class ExpertParallelMoe:
    """The experts [first, first + count) of a layer; w13 [count, 2I, H] and w2 [count, H, I] are this rank's alone."""

    def __init__(self, config, w13, w2, first, max_tokens):
        self.first, self.count = first, w13.shape[0]
        # A kernel of the rank's own experts. Ids that are not among them are skipped: read nowhere, add exactly 0.
        local = config.replace(num_experts=self.count)
        self.kernel = moejit.get_kernel(local, device=w13.device, max_tokens=max_tokens)
        self.w13, self.w2 = w13, w2

    def partial(self, x, topk_weights, topk_ids):
        """This rank's share of the sum. Ids in [0, E) of the whole layer."""
        return self.kernel(x, self.w13, self.w2, topk_weights, (topk_ids - self.first).int())

    def __call__(self, x, topk_weights, topk_ids):
        out = self.partial(x, topk_weights, topk_ids)
        dist.all_reduce(out)
        return out


def problem(config, tokens, device):
    """The same tensors on every rank, of a fixed seed."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, config.hidden_size, generator=random)
    w13 = torch.randn(config.num_experts, 2 * config.intermediate_size, config.hidden_size, generator=random) * 0.05
    w2 = torch.randn(config.num_experts, config.hidden_size, config.intermediate_size, generator=random) * 0.05
    logits = torch.randn(tokens, config.num_experts, generator=random).to(device)
    return [tensor.to(device) for tensor in (x, w13, w2)] + list(moejit.route(logits, config.top_k, renormalize=True))


def main():
    if "RANK" not in os.environ:
        raise SystemExit("expert_parallel.py: one process of several: run it with\n"
                         "    torchrun --nproc-per-node 2 examples/python/expert_parallel.py")
    on_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    config = moejit.MoeConfig(num_experts=16, top_k=4, hidden_size=256, intermediate_size=128, dtype="f32")
    x, w13, w2, weights, ids = problem(config, 24, device)

    # Any split works, an uneven one too, as long as each rank has at least top_k experts.
    first, end = rank * config.num_experts // ranks, (rank + 1) * config.num_experts // ranks
    with torch.inference_mode():
        layer = ExpertParallelMoe(config, w13[first:end].clone(), w2[first:end].clone(), first, max_tokens=64)
        got = layer(x, weights, ids)
        want = moejit.fused_experts(x, w13, w2, weights, ids)
    difference = float((got - want).norm() / want.norm())
    print(f"rank {rank} of {ranks}, experts {first}..{end - 1} on {device}: differs from one process by {difference:.1e}",
          flush=True)
    dist.destroy_process_group()
    if difference > 1e-5:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
