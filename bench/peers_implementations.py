"""The peers: each turns (problem) into a function that computes the layer, or says in words why it is not there."""

import importlib.util
import sys
import types

import torch


class Unavailable(Exception):
    """Not installed, not for this device, or not for this many tokens."""


def importable(name):
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def need(*names):
    for name in names:
        if not importable(name):
            raise Unavailable(f"{name} is not installed")


def need_cuda(problem):
    if problem.device.type != "cuda":
        raise Unavailable("for CUDA only")


def moejit(problem):
    need("moejit")
    import moejit as package

    layer = package.MoeConfig(num_experts=problem.E, top_k=problem.K, hidden_size=problem.H, intermediate_size=problem.I,
                              dtype=problem.dtype_name)
    tokens = sorted(set(problem.all_tokens))
    if problem.tune_s:
        problem.log(f"moejit: tuning for at most {problem.tune_s:g} s")
        package.tune(layer, device=problem.moejit_device, tokens=tokens, budget_s=problem.tune_s)
    kernel = package.get_kernel(layer, device=problem.moejit_device, max_tokens=max(tokens), tokens=tokens)

    def make(x, w13, w2, weights, ids):
        out = torch.empty_like(x)
        return lambda: kernel(x, w13, w2, weights, ids, out)

    return make


def eager_loop(problem):
    def make(x, w13, w2, weights, ids):
        def run():
            out = torch.zeros_like(x, dtype=torch.float32)
            for e in torch.unique(ids).tolist():
                token, k = torch.where(ids == e)
                gate, up = torch.nn.functional.linear(x[token], w13[e]).chunk(2, dim=-1)
                y = torch.nn.functional.linear(torch.nn.functional.silu(gate) * up, w2[e])
                out.index_add_(0, token, y.float() * weights[token, k, None])
            return out.to(x.dtype)

        return run

    return make


def grouped_mm(problem):
    if not hasattr(torch.nn.functional, "grouped_mm"):
        raise Unavailable(f"torch {torch.__version__} has no grouped_mm")
    experts, top_k = problem.E, problem.K

    def make(x, w13, w2, weights, ids):
        w13_t, w2_t = w13.transpose(1, 2), w2.transpose(1, 2)

        def run():
            flat = ids.reshape(-1)
            order = torch.argsort(flat)
            counts = torch.zeros(experts, dtype=torch.int32, device=x.device).index_add_(
                0, flat, torch.ones_like(flat, dtype=torch.int32))
            offsets = counts.cumsum(0, dtype=torch.int32)
            gate, up = torch.nn.functional.grouped_mm(x[order // top_k], w13_t, offs=offsets).chunk(2, dim=-1)
            y = torch.nn.functional.grouped_mm(torch.nn.functional.silu(gate) * up, w2_t, offs=offsets)
            back = torch.empty_like(y)
            back[order] = y
            return (back.view(-1, top_k, x.shape[1]) * weights[:, :, None].to(y.dtype)).sum(1)

        return run

    return make


def triton_fused(problem):
    need_cuda(problem)
    need("triton")
    import peers_triton

    layer = peers_triton.FusedMoe(problem.E, problem.K, problem.H, problem.I, max(problem.all_tokens), problem.dtype,
                                  problem.device, problem.log)

    def make(x, w13, w2, weights, ids):
        choice = layer.tune(x, w13, w2, weights, ids)
        out = torch.empty_like(x)
        return lambda: layer.run(x, w13, w2, weights, ids, out, choice)

    return make


def transformers_function(name):
    def build(problem):
        need("transformers")
        if name in ("sonicmoe", "deepgemm"):
            need_cuda(problem)
            need("kernels")
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _default_apply_gate

        if name not in ALL_EXPERTS_FUNCTIONS:
            raise Unavailable(f"this version of transformers has no {name}")
        function = ALL_EXPERTS_FUNCTIONS[name]

        def make(x, w13, w2, weights, ids):
            if name == "batched_mm" and ids.numel() * 3 * problem.H * problem.I * x.element_size() > 8e9:
                raise Unavailable("would copy more than 8 GB of weights")
            config = types.SimpleNamespace(hidden_act="silu", _experts_implementation=name)
            module = types.SimpleNamespace(
                num_experts=problem.E, gate_up_proj=w13, down_proj=w2, has_gate=True, has_bias=False,
                is_transposed=False, is_concatenated=True, act_fn=torch.nn.SiLU(), config=config, training=False)
            module._apply_gate = types.MethodType(_default_apply_gate, module)
            wide = ids.long()
            return lambda: function(module, x, wide, weights.to(x.dtype))

        return make

    return build


def vllm(problem):
    need_cuda(problem)
    need("vllm")
    from vllm.model_executor.layers.fused_moe import fused_experts

    return lambda x, w13, w2, weights, ids: lambda: fused_experts(x, w13, w2, weights, ids)


def flashinfer(problem):
    need_cuda(problem)
    need("flashinfer")
    from flashinfer.fused_moe import cutlass_fused_moe

    def make(x, w13, w2, weights, ids):
        # Its rows are up, then gate.
        swapped = torch.cat([w13[:, problem.I:], w13[:, :problem.I]], dim=1)
        out = torch.empty_like(x)

        def run():
            cutlass_fused_moe(x, ids, weights, swapped, w2, x.dtype, quant_scales=None, output=out)
            return out

        return run

    return make


def sglang(problem):
    need_cuda(problem)
    need("sglang", "sgl_kernel")
    from sglang.srt.layers.moe.moe_runner import MoeRunnerConfig
    from sglang.srt.layers.moe.moe_runner.triton_utils.fused_moe import fused_experts
    from sglang.srt.layers.moe.topk import StandardTopKOutput
    from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler

    set_global_server_args_for_scheduler(ServerArgs(model_path="dummy"))  # what its kernels ask for their options
    config = MoeRunnerConfig(inplace=False)

    def make(x, w13, w2, weights, ids):
        routed = StandardTopKOutput(weights, ids, None)
        return lambda: fused_experts(x, w13, w2, routed, config)

    return make


def deep_gemm(problem):
    need_cuda(problem)
    need("deep_gemm", "triton")
    import deep_gemm as library
    import peers_triton

    align = getattr(library, "get_mk_alignment_for_contiguous_layout", lambda: 128)()

    def make(x, w13, w2, weights, ids):
        around = peers_triton.AroundProducts(problem.E, problem.K, problem.H, problem.I, align, x.shape[0], x.dtype, x.device)
        out = torch.empty_like(x)
        return lambda: around.run(x, w13, w2, weights, ids, out, library.m_grouped_bf16_gemm_nt_contiguous)

    return make


def megablocks(problem):
    need_cuda(problem)
    need("megablocks", "grouped_gemm")
    from megablocks.layers.arguments import Arguments
    from megablocks.layers.dmoe import ParallelDroplessMLP

    bf16 = problem.dtype is torch.bfloat16
    layer = ParallelDroplessMLP(Arguments(
        hidden_size=problem.H, ffn_hidden_size=problem.I, moe_num_experts=problem.E, moe_top_k=problem.K, mlp_type="glu",
        mlp_impl="grouped", activation_fn=torch.nn.functional.silu, bias=False, return_bias=False, bf16=bf16, fp16=not bf16,
        device=problem.device, init_method=lambda weight: weight, output_layer_init_method=lambda weight: weight))
    # Its own layout of the weights: gate and up apart, down as [expert, I, H].
    for name, weight in (("w1", problem.w13[:, :problem.I]), ("v1", problem.w13[:, problem.I:]),
                         ("w2", problem.w2.transpose(1, 2))):
        getattr(layer.mlp, name).data = torch.empty(0, dtype=problem.dtype, device=problem.device)
        getattr(layer.mlp, name).data = weight.contiguous().view(-1, problem.H)

    def make(x, w13, w2, weights, ids):
        narrow = weights.to(x.dtype)
        return lambda: layer.forward_once(x, narrow, ids)[0]

    return make


def bassrehab(problem):
    need_cuda(problem)
    for name in ("triton_kernels.moe.fused_moe", "triton_kernels.moe"):
        if importable(name.partition(".")[0]) and importable(name):
            module = importlib.import_module(name)
            function = getattr(module, "fused_moe_forward_from_ids", None)
            if function is not None:
                return lambda x, w13, w2, weights, ids: lambda: function(x, w13, w2, weights, ids)
    raise Unavailable("no function of the triton-kernels package takes ids and weights")


PEERS = {
    "moejit": moejit,
    "triton": triton_fused,
    "grouped_mm": grouped_mm,
    "hf-grouped_mm": transformers_function("grouped_mm"),
    "hf-batched_mm": transformers_function("batched_mm"),
    "hf-sonicmoe": transformers_function("sonicmoe"),
    "hf-deepgemm": transformers_function("deepgemm"),
    "vllm": vllm,
    "sglang": sglang,
    "flashinfer": flashinfer,
    "deep_gemm": deep_gemm,
    "megablocks": megablocks,
    "bassrehab": bassrehab,
    "eager": eager_loop,
}

# These read counts on the host, which no graph can hold.
SYNCHRONISING = ("eager", "megablocks")


def versions():
    """Of everything that was imported, for the record."""
    found = {"python": sys.version.split()[0], "torch": torch.__version__}
    for name in ("triton", "transformers", "vllm", "sglang", "sgl_kernel", "flashinfer", "deep_gemm", "megablocks",
                 "grouped_gemm", "moejit"):
        module = sys.modules.get(name)
        if module is not None:
            found[name] = str(getattr(module, "__version__", "?"))
    return found
