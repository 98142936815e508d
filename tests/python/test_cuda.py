"""The package on a CUDA GPU: streams, graphs, torch.compile, DLPack of other libraries, errors, models, several ranks.

Everything here is skipped, with the reason, where torch sees no GPU or the library none that it can serve.
"""

import concurrent.futures
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import moejit  # noqa: E402
import moejit.torch_ops  # noqa: E402
from reference import TOLERANCE, Problem, error  # noqa: E402

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
CONFIG = moejit.MoeConfig(num_experts=8, top_k=2, hidden_size=128, intermediate_size=96)
DEVICE = "cuda:0"


@pytest.fixture(scope="module")
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA GPU")
    why = moejit.supports(CONFIG, DEVICE)
    if why:
        pytest.skip(why)
    torch.cuda.set_device(DEVICE)
    return DEVICE


@pytest.fixture(scope="module")
def kernel(cuda):
    return moejit.get_kernel(CONFIG, device=cuda, max_tokens=64)


def tensors(problem, ids=torch.int32, device=DEVICE):
    dtype = DTYPES[problem.config.dtype]
    x, w13, w2 = (torch.from_numpy(a).to(device, dtype) for a in (problem.x, problem.w13, problem.w2))
    return x, w13, w2, torch.from_numpy(problem.weights).to(device), torch.from_numpy(problem.ids).to(device, ids)


def close(got, problem):
    return error(got.float().cpu().numpy(), problem.expected()) < TOLERANCE[problem.config.dtype]


def busy(milliseconds=50):
    """Keeps the current stream at work for about that long."""
    torch.cuda._sleep(int(milliseconds * 1.5e6))


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_call(cuda, dtype):
    config = CONFIG.replace(dtype=dtype)
    kernel = moejit.get_kernel(config, device=torch.device(cuda), max_tokens=64)
    assert kernel.device == cuda
    for tokens in (1, 0, 7, 64, 3):  # the first makes the quick path, the others take it
        for ids in (torch.int32, torch.int64):
            problem = Problem(config, tokens, seed=tokens)
            arguments = tensors(problem, ids)
            out = kernel(*arguments)
            assert out.device == arguments[0].device and out.dtype == DTYPES[dtype] and close(out, problem)
            again = torch.full_like(out, float("nan"))
            assert kernel(*arguments, again) is again and close(again, problem)
            if dtype != "f32":
                problem.weights = arguments[3].half().float().cpu().numpy()
                assert close(kernel(*arguments[:3], arguments[3].half(), arguments[4]), problem)


def test_layer_with_everything(cuda):
    config = CONFIG.replace(bias=True, activation="swiglu_oai", interleaved=True)
    problem = Problem(config, 6)
    b13, b2 = (torch.from_numpy(b).to(cuda, torch.bfloat16) for b in (problem.b13, problem.b2))
    layer = moejit.torch_ops.layer_json(activation="swiglu_oai", interleaved=True)
    assert close(torch.ops.moejit.fused_moe(*tensors(problem), b13, b2, layer), problem)


def test_ids_that_are_not_mine_add_nothing(kernel):
    problem = Problem(CONFIG, 6)
    problem.ids[0] = (-1, 8)
    problem.ids[3, 1] = 1 << 30
    problem.weights[0] = np.nan
    out = kernel(*tensors(problem))
    assert bool((out[0] == 0).all())
    problem.weights[0] = 0
    assert close(out, problem)
    with pytest.raises(moejit.InvalidArgument, match=r"topk_ids\[0,0\] = -1"):
        kernel(*tensors(problem), strict=True)
    x, w13, w2, weights, ids = tensors(problem, torch.int64)
    ids[0], ids[3, 1] = 0, 1 << 40
    with pytest.raises(moejit.InvalidArgument, match=rf"topk_ids\[3,1\] = {1 << 40}"):
        kernel(x, w13, w2, weights, ids, strict=True)


# ---- streams and graphs ----


def test_work_is_enqueued_on_the_current_stream(kernel):
    problem = Problem(CONFIG, 9)
    arguments = tensors(problem)
    x, out = torch.zeros_like(arguments[0]), torch.empty_like(arguments[0])
    for side in (torch.cuda.Stream(), torch.cuda.Stream()):
        for call in (kernel, torch.ops.moejit.fused_moe_out):
            call(x, *arguments[1:], out)  # so that nothing is left to compile or load
            with torch.cuda.stream(side):
                call(x, *arguments[1:], out)
            x.zero_(), out.fill_(float("nan"))
            torch.cuda.synchronize()
            with torch.cuda.stream(side):
                busy()
                x.copy_(arguments[0])
                call(x, *arguments[1:], out)
                done = torch.cuda.Event()
                done.record()
                assert not done.query(), "the call waited for the stream"
                # On any other stream the kernel would have read the zeros of x.
                got = out.clone()
            side.synchronize()
            assert close(got, problem)


def test_stream_argument(kernel):
    problem = Problem(CONFIG, 9)
    arguments = tensors(problem)
    x = torch.zeros_like(arguments[0])
    side = torch.cuda.Stream()
    for stream in (side, side.cuda_stream):
        kernel(x, *arguments[1:], stream=stream)
        x.zero_()
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            busy()
            x.copy_(arguments[0])
        got = kernel(x, *arguments[1:], stream=stream)
        side.synchronize()
        assert close(got, problem)


def test_graph(kernel):
    """Captured once and replayed with other tensors in the same places; routed as well."""
    config = CONFIG.replace(router=moejit.RouterConfig(renormalize=True))
    routed = moejit.get_kernel(config, device=DEVICE, max_tokens=64)
    arguments = tensors(Problem(CONFIG, 7))
    logits = torch.randn(7, 8, device=DEVICE)
    chosen = torch.empty(7, 2, dtype=torch.int32, device=DEVICE), torch.empty(7, 2, device=DEVICE)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # the warm-up on the stream that captures, as torch's documentation has it
        kernel(*arguments)
        torch.ops.moejit.fused_moe(*arguments)
        routed.routed(*arguments[:3], logits, topk_ids=chosen[0], topk_weights=chosen[1])
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        first = kernel(*arguments)
        second = torch.ops.moejit.fused_moe(*arguments) * 2
        third = routed.routed(*arguments[:3], logits, topk_ids=chosen[0], topk_weights=chosen[1])
    for seed in (3, 4, 5):
        problem = Problem(CONFIG, 7, seed=seed)
        for mine, new in zip(arguments, tensors(problem)):
            mine.copy_(new)
        logits.copy_(torch.randn(7, 8, generator=torch.Generator().manual_seed(seed)))
        graph.replay()
        kernel(*tensors(Problem(CONFIG, 64)))  # an eager launch must not disturb the graph's workspace, nor it that
        torch.cuda.synchronize()
        assert close(first, problem) and torch.equal(first * 2, second)
        problem.ids, problem.weights = chosen[0].cpu().numpy(), chosen[1].cpu().numpy()
        assert np.array_equal(problem.ids, logits.topk(2).indices.cpu().numpy()) and close(third, problem)


def test_threads_with_streams_of_their_own(kernel):
    def work(seed):
        problem = Problem(CONFIG, 1 + 7 * seed, seed=seed)
        with torch.cuda.stream(torch.cuda.Stream()):
            arguments = tensors(problem)
            first = kernel(*arguments)
            for _ in range(50):
                again = kernel(*arguments)
            torch.cuda.current_stream().synchronize()
            return close(first, problem) and close(again, problem)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def test_compile(cuda):
    def block(x, w13, w2, weights, ids):
        return torch.ops.moejit.fused_moe(x * 2, w13, w2, weights, ids) + x

    for options in ({}, {"backend": "aot_eager", "dynamic": True}, {"mode": "reduce-overhead"}):
        compiled = torch.compile(block, fullgraph=True, **options)
        with torch.inference_mode():
            for tokens in (5, 5, 5):  # the third replays a graph of reduce-overhead
                arguments = tensors(Problem(CONFIG, tokens, seed=tokens))
                got, want = compiled(*arguments).float(), block(*arguments).float()
                assert (got - want).norm() < 1e-2 * want.norm(), options


def test_opcheck(cuda):
    arguments = tensors(Problem(CONFIG, 5))
    torch.library.opcheck(torch.ops.moejit.fused_moe.default, arguments)
    torch.library.opcheck(torch.ops.moejit.fused_moe_out.default, (*arguments, torch.empty_like(arguments[0])))


def test_gradients_are_refused(kernel):
    x, w13, w2, weights, ids = tensors(Problem(CONFIG, 4))
    for call in (kernel, torch.ops.moejit.fused_moe, moejit.fused_experts):
        with pytest.raises(moejit.Unsupported, match="no_grad"):
            call(x, torch.nn.Parameter(w13), w2, weights, ids)


# ---- other ways in ----


def test_fused_experts_and_expert_map(cuda):
    problem = Problem(CONFIG, 9)
    x, w13, w2, weights, ids = tensors(problem, torch.int64)
    whole = moejit.fused_experts(x, w13, w2, weights, ids)
    assert close(whole, problem)
    parts = torch.zeros_like(whole)
    for rank in range(2):
        mine = slice(rank * 4, rank * 4 + 4)
        expert_map = torch.full((8,), -1, dtype=torch.int32, device=cuda)
        expert_map[mine] = torch.arange(4, dtype=torch.int32, device=cuda)
        parts += moejit.fused_experts(x, w13[mine], w2[mine], weights, ids, global_num_experts=8, expert_map=expert_map)
    assert close(parts, problem)
    assert moejit.fused_experts(x, w13, w2, weights, ids, inplace=True) is x and close(x, problem)


def test_route(cuda):
    logits = torch.randn(33, 16, device=cuda)
    weights, ids = moejit.route(logits, 4, renormalize=True)
    score, order = logits.softmax(-1).topk(4)
    assert torch.equal(ids.long(), order)
    assert torch.allclose(weights, score / score.sum(-1, keepdim=True), atol=1e-6)
    bias = torch.randn(16, device=cuda)
    weights, ids = moejit.route(logits.bfloat16(), 3, scoring="sigmoid", correction_bias=bias, scaling_factor=2.5)
    score = logits.bfloat16().float().sigmoid()
    assert torch.equal(ids.long(), (score + bias).topk(3).indices)
    assert torch.allclose(weights, score.gather(1, ids.long()) * 2.5, atol=1e-6)


class Foreign:
    """What exports DLPack and nothing else."""

    def __init__(self, tensor):
        self.__dlpack_device__, self.__dlpack__ = tensor.__dlpack_device__, tensor.__dlpack__


def test_dlpack_object(kernel):
    problem = Problem(CONFIG, 5)
    out = torch.empty(5, 128, dtype=torch.bfloat16, device=DEVICE)
    kernel(*[Foreign(tensor) for tensor in tensors(problem)], out)
    assert close(out, problem)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: w2 is on cpu: must be on cuda:0"):
        arguments = tensors(problem)
        kernel(*arguments[:2], Foreign(arguments[2].cpu()), *arguments[3:])


def test_cupy(cuda):
    cupy = pytest.importorskip("cupy")
    config = CONFIG.replace(dtype="f16")
    kernel = moejit.get_kernel(config, device=cuda, max_tokens=64)
    problem = Problem(config, 5)
    arguments = [cupy.asarray(a) for a in problem.arguments()]
    out = kernel(*arguments)
    assert isinstance(out, cupy.ndarray) and error(cupy.asnumpy(out), problem.expected()) < TOLERANCE["f16"]
    # Its own current stream, although torch has one too.
    x = cupy.zeros_like(arguments[0])
    with cupy.cuda.Stream(non_blocking=True) as side:
        kernel(x, *arguments[1:], out)
        side.synchronize()
        with torch.cuda.stream(torch.cuda.ExternalStream(side.ptr)):
            busy()
        x[...] = arguments[0]
        kernel(x, *arguments[1:], out)
        side.synchronize()
        assert error(cupy.asnumpy(out), problem.expected()) < TOLERANCE["f16"]
    weights, ids = moejit.route(cupy.asarray(np.eye(8, dtype=np.float32)), 1)
    assert isinstance(ids, cupy.ndarray) and cupy.asnumpy(ids)[:, 0].tolist() == list(range(8))


def test_jax(cuda):
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("jax sees no GPU")
    kernel = moejit.get_kernel(CONFIG.replace(dtype="f16"), device=cuda, max_tokens=64)
    problem = Problem(kernel.config, 5)
    arguments = [jax.device_put(a) for a in problem.arguments()]
    out = torch.empty(5, 128, dtype=torch.float16, device=cuda)
    kernel(*arguments, out)
    assert close(out, problem)


def test_errors_name_the_argument(kernel):
    arguments = tensors(Problem(CONFIG, 4))
    kernel(*arguments)
    for position, name in enumerate(("x", "w13", "w2", "topk_weights", "topk_ids")):
        wrong = [*arguments]
        wrong[position] = arguments[position].cpu()
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {name} is on cpu: must be on cuda:0"):
            kernel(*wrong)
        if torch.cuda.device_count() > 1:
            wrong[position] = arguments[position].to("cuda:1")
            with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {name} is on cuda:1: must be on cuda:0"):
                kernel(*wrong)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: out is on cpu"):
        kernel(*arguments, torch.empty(4, 128, dtype=torch.bfloat16))
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: x is on cpu"):
        kernel(*Problem(CONFIG, 4).arguments())
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: workspace is on cpu"):
        kernel(*arguments, workspace=torch.empty(kernel.workspace_size(4), dtype=torch.uint8))
    size = kernel.workspace_size(4)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: workspace has"):
        kernel(*arguments, workspace=torch.empty(size - 1, dtype=torch.uint8, device=DEVICE))
    assert close(kernel(*arguments, workspace=torch.empty(size, dtype=torch.uint8, device=DEVICE)), Problem(CONFIG, 4))


def test_second_gpu(cuda):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    problem = Problem(CONFIG, 4)
    arguments = tensors(problem, device="cuda:1")
    # torch's current device stays the first: the tensors decide.
    assert close(moejit.fused_experts(*arguments), problem)
    kernel = moejit.get_kernel(CONFIG, device="cuda:1", max_tokens=4)
    for _ in range(2):
        out = kernel(*arguments)
        assert str(out.device) == "cuda:1" and close(out, problem)
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("beside", ["torch alone", "cupy"])
def test_fork_is_refused(kernel, beside):
    if beside == "cupy":  # whose stream is asked for where torch has none
        pytest.importorskip("cupy").cuda.Device().synchronize()
    arguments = tensors(Problem(CONFIG, 4))
    out = kernel(*arguments)
    torch.cuda.synchronize()
    child = os.fork()
    if child == 0:
        try:
            kernel(*arguments, out=out)
        except moejit.DeviceError as failed:
            os._exit(0 if failed.message.startswith("kernel: it was made before fork()") else 3)
        except BaseException as failed:
            os.write(2, f"{type(failed).__name__}: {failed}\n".encode())
            os._exit(4)
        os._exit(5)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 0
    assert close(kernel(*arguments), Problem(CONFIG, 4))


# ---- models and ranks ----


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe", "DeepseekV3", "GptOss"])
def test_models(cuda, name):
    """Layers in bf16 against the eager loop, and generate() in f32 word for word."""
    models = pytest.importorskip("test_transformers")
    tokens = torch.randint(3, 128, (2, 9), generator=torch.Generator().manual_seed(1)).to(cuda)
    for dtype in (torch.bfloat16, torch.float32):
        model = models.model_of(name, dtype).to(cuda)
        modules = models.adapter.experts_modules(model)
        reasons = models.adapter.report(model)
        assert modules and not any(reasons.values()), reasons
        with torch.inference_mode():
            model.set_experts_implementation("eager")
            layers = {}
            hooks = [module.register_forward_hook(lambda m, i, o, n=n: layers.update({n: (i, o)}))
                     for n, module in modules.items()]
            model(tokens)
            for hook in hooks:
                hook.remove()
            if dtype is torch.float32:
                want = model.generate(tokens, max_new_tokens=6, min_new_tokens=6, do_sample=False)
            model.set_experts_implementation("moejit")
            for n, module in modules.items():
                inputs, expected = layers[n]
                difference = (module(*inputs).float() - expected.float()).norm()
                assert difference <= models.TOLERANCE[dtype] * expected.float().norm(), n
            got = model.generate(tokens, max_new_tokens=6, min_new_tokens=6, do_sample=False)
            assert dtype is not torch.float32 or torch.equal(got, want)


def test_full_size_layer(cuda):
    """One layer of Qwen3-30B-A3B as transformers has it."""
    models = pytest.importorskip("test_transformers")
    module = models.experts("Qwen3Moe", "transformers.models.qwen3_moe.modeling_qwen3_moe", hidden_size=2048,
                            moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8).bfloat16().to(cuda)
    with torch.inference_mode():
        for tokens in (1, 33, 700):
            x, ids, weights = (a.to(cuda) for a in models.inputs(tokens, 8, 128, 2048))
            got = models.call(module, "moejit", x.bfloat16(), ids, weights.bfloat16())
            want = models.call(module, "eager", x.bfloat16(), ids, weights.bfloat16())
            assert (got.float() - want.float()).norm() < 1e-2 * want.float().norm()


def test_expert_parallel_over_nccl(cuda):
    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        pytest.skip("this torch has no NCCL")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    ranks = min(torch.cuda.device_count(), 4)  # of one GPU, one rank, which is still NCCL's all-reduce
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {**os.environ, "PYTHONPATH": os.path.join(root, "python"), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "MOEJIT_LIBRARY": moejit._library.library().path}
    workers = [subprocess.Popen([sys.executable, os.path.join(root, "examples", "python", "expert_parallel.py")],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(ranks)]
    for worker in workers:
        text, _ = worker.communicate(timeout=120)
        assert worker.returncode == 0 and "on cuda:" in text, text
