"""The package with NumPy alone: config, kernels, errors, and how it behaves around processes and missing parts."""

import concurrent.futures
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

np = pytest.importorskip("numpy")

import moejit  # noqa: E402
from moejit import _tensors  # noqa: E402
from reference import TOLERANCE, Problem, bf16_bits, error, from_bits  # noqa: E402

CONFIG = moejit.MoeConfig(num_experts=8, top_k=2, hidden_size=64, intermediate_size=48)


def close(got, problem):
    return error(got, problem.expected()) < TOLERANCE[problem.config.dtype]


def python(code, **environment):
    """Runs code in a fresh interpreter that finds the same package; (exit code, output and errors)."""
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(moejit.__file__)), **environment}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True,
                          timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def kernel(cpu):
    return moejit.get_kernel(CONFIG, device=cpu, max_tokens=64)


# ---- config ----


def test_config_json_round_trip():
    config = CONFIG.replace(activation="gelu_tanh", router=moejit.RouterConfig(scoring="sigmoid", n_group=4))
    text = config.to_json()
    assert moejit.MoeConfig.from_json(text) == config
    assert '"scoring":"sigmoid"' in text
    assert moejit.MoeConfig.from_json('{"num_experts":8,"top_k":2,"hidden_size":64,"intermediate_size":48}') == CONFIG


def test_config_sources(tmp_path):
    preset = moejit.MoeConfig.from_preset("qwen3-30b-a3b")
    assert (preset.num_experts, preset.top_k, preset.hidden_size, preset.intermediate_size) == (128, 8, 2048, 768)
    assert preset.shard(2).intermediate_size == 384
    with pytest.raises(moejit.NotFound, match="qwen3-30b-a3b"):
        moejit.MoeConfig.from_preset("qwen3-30b-a3c")
    (tmp_path / "config.json").write_text(
        '{"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "hidden_size": 64,'
        '"intermediate_size": 48, "torch_dtype": "bfloat16", "hidden_act": "silu"}')
    config = moejit.MoeConfig.from_hf(tmp_path)
    assert config == CONFIG.replace(router=config.router) and config.router.renormalize
    with pytest.raises(moejit.NotFound, match="source"):
        moejit.MoeConfig.from_hf(tmp_path / "nowhere")


def test_config_errors_name_the_field():
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: top_k = 9: must be") as raised:
        CONFIG.replace(top_k=9).check()
    assert raised.value.status is moejit.Status.INVALID_ARGUMENT
    assert isinstance(raised.value, ValueError)
    with pytest.raises(moejit.DataError, match="activation"):
        CONFIG.replace(activation="swish").check()
    with pytest.raises(moejit.InvalidArgument, match="no field 'experts'"):
        moejit.get_kernel(experts=8)
    with pytest.raises(moejit.InvalidArgument, match="policy"):
        moejit.get_kernel(CONFIG, policy="fast")
    with pytest.raises(moejit.Error):
        moejit.get_kernel(CONFIG, device="abacus")


def test_what_json_and_c_strings_cannot_hold_is_named(cpu, tmp_path):
    for field, config in (("swiglu_limit", CONFIG.replace(swiglu_limit=float("inf"))),
                          ("router.scaling_factor", CONFIG.replace(router=moejit.RouterConfig(scaling_factor=float("nan"))))):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {field} = (inf|nan): must be finite"):
            config.check()
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: budget_s = inf: must be finite"):
        moejit.tune(CONFIG, device=cpu, budget_s=float("inf"))
    for name, value in (("device", "cpu\0x"), ("cache_path", "/tmp/x\0y")):
        with pytest.raises(moejit.InvalidArgument, match=f"{name} = .*NUL"):
            moejit.get_kernel(CONFIG, **{name: value})
    for path in (tmp_path / "nope", "/nonexistent/config.json", "./nope"):
        with pytest.raises(moejit.NotFound, match="source = .*No such file"):
            moejit.get_kernel(path)


def test_values_of_other_types_are_named(cpu):
    for name, value in (("tokens", 5), ("tokens", ["1"]), ("tokens", [2**70]), ("max_tokens", "8"), ("max_tokens", 8.0),
                        ("max_tokens", 2**70), ("num_threads", "2"), ("num_threads", 2**40)):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {name} = .*must be"):
            moejit.get_kernel(CONFIG, device=cpu, **{name: value})
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: top_k = 2.0: must be an integer"):
        moejit.route(np.zeros((2, 8), np.float32), 2.0)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: activation = .*type object"):
        CONFIG.replace(activation=object()).check()
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: router = .*must be"):
        CONFIG.replace(router=moejit.RouterConfig(n_group=object())).check()


def test_integers_of_numpy(cpu):
    config = moejit.MoeConfig(num_experts=np.int64(8), top_k=np.int32(2), hidden_size=np.int64(64), intermediate_size=48)
    assert config == CONFIG and config.to_json() == CONFIG.to_json() and type(config.num_experts) is int
    kernel = moejit.get_kernel(config, device=cpu, max_tokens=np.int64(4), tokens=np.array([1, 2]))
    assert kernel.max_tokens == 4
    assert moejit.route(np.zeros((2, 8), np.float32), np.int64(2))[1].shape == (2, 2)


def test_errors_can_be_pickled():
    back = pickle.loads(pickle.dumps(moejit.CompileError("no", "line 1")))
    assert type(back) is moejit.CompileError and back.log == "line 1" and str(back) == "COMPILE_ERROR: no"


# ---- launches ----


LAYERS = [
    CONFIG,
    CONFIG.replace(dtype="f32"),
    CONFIG.replace(dtype="f16", activation="gelu_tanh"),
    CONFIG.replace(dtype="f32", activation="relu2", gated=False),
    CONFIG.replace(dtype="f32", activation="swiglu_oai", bias=True, interleaved=True, transposed=True),
    CONFIG.replace(dtype="f32", up_first=True, weight_on_input=True, activation="gelu"),
]


@pytest.mark.parametrize("config", LAYERS, ids=lambda config: f"{config.dtype}-{config.activation}")
def test_layers(cpu, config):
    kernel = moejit.get_kernel(config, device=cpu, max_tokens=32)
    for tokens in (0, 1, 9):
        problem = Problem(config, tokens, seed=tokens)
        out = kernel(*problem.arguments(), **problem.biases())
        assert out.shape == (tokens, 64) and close(out, problem)


def test_ids_that_are_not_mine_add_nothing(kernel):
    problem = Problem(CONFIG, 6)
    problem.ids[0] = (-1, 8)
    problem.ids[3, 1] = 1 << 30
    problem.weights[0] = np.nan
    out = from_bits(kernel(*problem.arguments()))
    assert np.all(out[0] == 0)
    problem.weights[0] = 0
    assert close(bf16_bits(out), problem)


def test_wide_ids_stay_out_of_range(kernel):
    """2^32 and -2^32 would be expert 0 if they were only cut to 32 bits."""
    problem = Problem(CONFIG, 6)
    x, w13, w2, weights, ids = problem.arguments()
    ids = ids.copy()
    for far in (1 << 32, -(1 << 32), (1 << 32) + 3, 1 << 62):
        wide = ids.astype(np.int64)
        wide[0], wide[3, 1] = far, far
        problem.ids[0], problem.ids[3, 1] = -1, -1
        expert_map = np.arange(8, dtype=np.int64)
        assert close(kernel(x, w13, w2, weights, wide), problem)
        assert close(moejit.fused_experts(x, w13, w2, weights, wide), problem)
        assert close(moejit.fused_experts(x, w13, w2, weights, wide, expert_map=expert_map), problem)
        with pytest.raises(moejit.InvalidArgument, match=rf"topk_ids\[0,0\] = {far}: must be within 0..7"):
            kernel(x, w13, w2, weights, wide, strict=True)
        expert_map[int(ids[1, 0])] = far  # a map, too, may be wide
        problem.ids[problem.ids == ids[1, 0]] = -1
        assert close(moejit.fused_experts(x, w13, w2, weights, wide, expert_map=expert_map), problem)
        problem.ids[:] = ids


def test_other_integer_and_float_types_are_converted(kernel):
    problem = Problem(CONFIG, 5)
    x, w13, w2, weights, ids = problem.arguments()
    problem.weights = weights.astype(np.float16).astype(np.float32)
    assert close(kernel(x, w13, w2, weights.astype(np.float16), ids.astype(np.int64)), problem)


def test_ml_dtypes(kernel):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    problem = Problem(CONFIG, 5)
    x, w13, w2, weights, ids = problem.arguments()
    out = kernel(*(a.view(ml_dtypes.bfloat16) for a in (x, w13, w2)), weights, ids)
    assert out.dtype == ml_dtypes.bfloat16 and close(out.view(np.uint16), problem)


def test_routed(cpu):
    config = CONFIG.replace(dtype="f32", router=moejit.RouterConfig(renormalize=True))
    kernel = moejit.get_kernel(config, device=cpu, max_tokens=16)
    problem = Problem(config, 7)
    logits = np.random.default_rng(3).standard_normal((7, 8)).astype(np.float32)
    ids, weights = np.empty((7, 2), np.int32), np.empty((7, 2), np.float32)
    x, w13, w2, _, _ = problem.arguments()
    out = kernel.routed(x, w13, w2, logits, topk_ids=ids, topk_weights=weights)
    score = np.exp(logits - logits.max(1, keepdims=True))
    order = np.argsort(-score, axis=1)[:, :2]
    assert np.array_equal(ids, order)
    chosen = np.take_along_axis(score, order, 1)
    assert np.allclose(weights, chosen / chosen.sum(1, keepdims=True), atol=1e-6)
    problem.ids, problem.weights = ids, weights
    assert close(out, problem)
    again = moejit.route(logits, 2, renormalize=True)
    assert np.array_equal(again[0], weights) and np.array_equal(again[1], ids)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: router_logits has shape"):
        kernel.routed(x, w13, w2, logits[:, :4])


def test_fused_experts(cpu):
    problem = Problem(CONFIG.replace(dtype="f32"), 5)
    x, w13, w2, weights, ids = problem.arguments()
    assert close(moejit.fused_experts(x, w13, w2, weights, ids), problem)
    expert_map = np.full(8, -1, np.int32)
    expert_map[4:] = np.arange(4)
    part = moejit.fused_experts(x, w13[4:].copy(), w2[4:].copy(), weights, ids, global_num_experts=8,
                                expert_map=expert_map)
    rest = np.where(ids >= 4, ids, -1)
    problem.ids = rest
    assert close(part, problem)
    for change, word in (({"activation": "swish"}, "activation = 'swish'"), ({"global_num_experts": 16}, "expert_map"),
                         ({"w1_bias": w13[:, :, 0]}, "w1_bias")):
        with pytest.raises(moejit.InvalidArgument, match=word):
            moejit.fused_experts(x, w13, w2, weights, ids, **change)
    with pytest.raises(moejit.Unsupported, match="quant"):
        moejit.fused_experts(x, w13, w2, weights, ids, quant_config=object())
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: w1"):
        moejit.fused_experts(x, w13, w2[:, :, :24], weights, ids)


BAD = [
    ("x", lambda a: (a[0].astype(np.float64), *a[1:]), "dtype"),
    ("x", lambda a: (a[0][0], *a[1:]), "shape"),
    ("x", lambda a: (np.zeros((4, 128), np.uint16)[:, ::2], *a[1:]), "row-major"),
    ("x", lambda a: ([1, 2], *a[1:]), "type list"),
    ("w13", lambda a: (a[0], a[1].swapaxes(1, 2), *a[2:]), "shape"),
    ("w13", lambda a: (a[0], np.asfortranarray(a[1]), *a[2:]), "row-major"),
    ("w2", lambda a: (*a[:2], a[2][:4], *a[3:]), "shape"),
    ("topk_weights", lambda a: (*a[:3], a[3].astype(np.float64), a[4]), "dtype"),
    ("topk_ids", lambda a: (*a[:4], a[4][:3]), "shape"),
    ("topk_ids", lambda a: (*a[:4], a[4].astype(np.uint8)), "dtype"),
]


@pytest.mark.parametrize("name,change,word", BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_errors_name_the_argument(kernel, name, change, word):
    with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {name} .*{word}"):
        kernel(*change(Problem(CONFIG, 4).arguments()))


def test_out_is_checked(kernel):
    arguments = Problem(CONFIG, 4).arguments()
    frozen = np.zeros((4, 64), np.uint16)
    frozen.flags.writeable = False
    for out, word in ((frozen, "read-only"), (arguments[0], "overlaps"), (np.zeros((3, 64), np.uint16), "shape")):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: out .*{word}"):
            kernel(*arguments, out)
    with pytest.raises(moejit.InvalidArgument, match="num_tokens = 65"):
        kernel(*Problem(CONFIG, 65).arguments())
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: b2"):
        kernel(*arguments, b2=arguments[0])


def test_big_endian_arrays_are_called_so(kernel):
    x, w13, w2, weights, ids = Problem(CONFIG, 4).arguments()
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: topk_weights has dtype big-endian float32"):
        kernel(x, w13, w2, weights.astype(">f4"), ids)


def test_odd_arrays_are_named(kernel):
    x, w13, w2, weights, ids = Problem(CONFIG, 4).arguments()
    for odd, words in ((x.astype(object), "x has dtype object"), (np.zeros((4, 64), "M8[ns]"), "x has dtype datetime64"),
                       (np.ma.masked_array(x, mask=True), "x is a masked array"), (np.zeros((4, 64), [("a", "u2")]), "x has dt"),
                       (np.zeros(4 * 64 * 2 + 1, np.uint8)[1:].view(np.uint16).reshape(4, 64), "x is at 0x")):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {words}"):
            kernel(odd, w13, w2, weights, ids)
    frozen = [a.copy() for a in (x, w13, w2, weights, ids)]
    for a in frozen:
        a.flags.writeable = False
    assert np.array_equal(kernel(*frozen), kernel(x, w13, w2, weights, ids))
    out = np.zeros((4, 64), np.uint16)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: out overlaps topk_ids:"):
        kernel(x, w13, w2, weights, out.view(np.int32).reshape(-1)[:8].reshape(4, 2), out=out)


def test_dense_strides():
    assert _tensors.is_dense((2, 3), (3, 1)) and _tensors.is_dense((2, 3), None)
    assert _tensors.is_dense((1, 3), (77, 1)) and _tensors.is_dense((0, 3), (9, 9))
    assert not _tensors.is_dense((2, 3), (4, 1)) and not _tensors.is_dense((2, 3), (1, 2))


def test_kernel_says_what_it_is(kernel):
    assert kernel.device == "cpu" and kernel.max_tokens == 64 and "E=8" in repr(kernel)
    buckets = kernel.buckets()
    assert [bucket["tokens"] for bucket in buckets][0] == 1 and buckets[0]["source"] in ("exact", "nearest", "model")
    assert kernel.workspace_size(64) >= kernel.workspace_size(1) >= 256
    assert moejit.supports(CONFIG, "cpu") is None
    assert "abacus" in moejit.supports(CONFIG, "abacus")


def test_threads(kernel):
    problems = [Problem(CONFIG, 1 + i, seed=i) for i in range(4)]

    def work(problem):
        first = kernel(*problem.arguments())
        return close(first, problem) and all(np.array_equal(kernel(*problem.arguments()), first) for _ in range(20))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, problems))


def test_get_kernel_from_many_threads(cpu):
    config = CONFIG.replace(intermediate_size=40)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        kernels = list(pool.map(lambda _: moejit.get_kernel(config, device=cpu, max_tokens=4), range(8)))
    problem = Problem(config, 3)
    outs = [kernel(*problem.arguments()) for kernel in kernels]
    assert close(outs[0], problem) and all(np.array_equal(out, outs[0]) for out in outs)


def test_fork(kernel):
    problem = Problem(CONFIG, 5)
    want = kernel(*problem.arguments())
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(kernel(*problem.arguments()), want) else 3)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0 if hasattr(os, "waitstatus_to_exitcode") else status == 0
    assert np.array_equal(kernel(*problem.arguments()), want)


# ---- offline work ----


def test_tune_bench_verify(cpu):
    if not hasattr(moejit._library.library().c, "moejit_tune_json"):
        pytest.skip("this library has no tuning through the C interface")
    seen = []
    report = moejit.tune(CONFIG, device=cpu, tokens=[1, 4], max_candidates=3, progress=seen.append)
    assert [row["tokens"] for row in report["rows"]] == [1, 4] and not report["cancelled"]
    assert seen and "tokens" in seen[0]
    rows = moejit.bench(CONFIG, device=cpu, tokens=[4], samples=3)["rows"]
    assert rows[0]["median_s"] > 0 and rows[0]["error"] < 0.02
    assert moejit.verify(CONFIG, device=cpu, tokens=[0, 3])["ok"]
    stopped = moejit.tune(CONFIG.replace(top_k=1), device=cpu, tokens=[1, 2, 4, 8], progress=lambda _: False)
    assert stopped["cancelled"]
    with pytest.raises(moejit.Error, match="zipf"):
        moejit.tune(CONFIG, device=cpu, tokens=[1], routing="zipf:many")
    with pytest.raises(ZeroDivisionError):
        moejit.tune(CONFIG.replace(top_k=1), device=cpu, tokens=[1, 2], progress=lambda _: 1 / 0)


def test_interrupt_ends_a_tune(cpu):
    if not hasattr(moejit._library.library().c, "moejit_tune_json"):
        pytest.skip("this library has no tuning through the C interface")
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    config = moejit.MoeConfig(num_experts=64, top_k=8, hidden_size=512, intermediate_size=384)
    with pytest.raises(KeyboardInterrupt):
        moejit.tune(config, device=cpu, exhaustive=True)
    timer.join()


def test_command(cpu, kernel, tmp_path):
    try:
        moejit._command.find_command()
    except moejit.Unavailable as error:
        pytest.skip(str(error))
    code, text = run_module("version")
    assert code == 0 and moejit.version() in text
    assert run_module("no-such-verb")[0] == 2
    assert moejit.cache.path() == os.environ["MOEJIT_CACHE_DIR"]
    assert any(row for row in moejit.cache.ls("kernel"))
    with pytest.raises(moejit.NotFound):
        moejit.cache.show("0123456789abcdef")
    assert moejit.cache.stats() and moejit.cache.verify()
    nowhere = tmp_path / "no cache"
    assert moejit.cache.ls(cache_path=nowhere) == []
    with pytest.raises(moejit.NotFound):
        moejit.cache.stats(cache_path=nowhere)
    with pytest.raises(moejit.IoError, match="cannot create"):
        moejit.cache.pack("/nonexistent/pack")


def run_module(*arguments):
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(moejit.__file__))}
    done = subprocess.run([sys.executable, "-m", "moejit", *arguments], env=env, capture_output=True, text=True,
                          timeout=60, check=False)
    return done.returncode, done.stdout


# ---- missing parts ----


def test_missing_library():
    code, text = python("""
        import moejit
        try:
            moejit.version()
        except moejit.LibraryNotFound as error:
            assert isinstance(error, ImportError) and isinstance(error, moejit.Unavailable)
            print(error)
        """, MOEJIT_LIBRARY="/nowhere/libmoejit.so")
    assert code == 0 and "/nowhere/libmoejit.so: no such file" in text and "MOEJIT_LIBRARY" in text


def test_library_that_is_another():
    code, text = python("""
        import ctypes.util, os
        os.environ["MOEJIT_LIBRARY"] = ctypes.util.find_library("m")
        import moejit
        try:
            moejit.version()
        except moejit.Unavailable as error:
            print(error)
        """)
    assert code == 0 and "not libmoejit" in text


def test_missing_cpu_module(tmp_path):
    code, text = python("""
        import moejit
        try:
            moejit.get_kernel(num_experts=4, top_k=1, hidden_size=32, intermediate_size=32, device="cpu")
        except moejit.Unavailable as error:
            print(error)
        """, MOEJIT_CPU_MODULE="/nowhere/libmoejit_cpu.so", MOEJIT_CACHE_DIR=str(tmp_path))
    assert code == 0 and "/nowhere/libmoejit_cpu.so" in text and "pip install moejit-cpu" in text


def test_without_numpy(cpu):
    """The package itself needs none: DLPack from an object of one's own."""
    code, text = python("""
        import sys
        sys.modules["numpy"] = None
        import moejit
        kernel = moejit.get_kernel(num_experts=4, top_k=1, hidden_size=32, intermediate_size=32, device="cpu",
                                   max_tokens=2)
        print(kernel.workspace_size(2) >= 256, "torch" in sys.modules)
        """)
    assert code == 0 and "True False" in text, text


def test_import_is_quick_and_opens_nothing():
    code, text = python("""
        import sys, time
        begin = time.perf_counter()
        import moejit
        print("opened", moejit._library._opened, "numpy" in sys.modules)
        """)
    assert code == 0 and "opened None False" in text


def test_log_lines_reach_logging(tmp_path):
    code, text = python("""
        import logging
        logging.basicConfig(level=logging.DEBUG, format="SEEN %(name)s %(levelname)s %(message)s")
        import moejit
        try:
            moejit.get_kernel(num_experts=4, top_k=1, hidden_size=32, intermediate_size=32, device="cpu", max_tokens=1)
        except moejit.Unavailable:
            pass
        """, MOEJIT_CACHE_DIR="/proc/nowhere", MOEJIT_LOG="")
    assert code == 0 and "SEEN moejit WARNING" in text, text
