"""Packed weights with NumPy alone: what pack_weights makes, kernels that read it, and what both refuse."""

import ctypes
import os
import re
import types

import pytest

np = pytest.importorskip("numpy")

import moejit  # noqa: E402
from moejit import _tensors  # noqa: E402
from reference import TOLERANCE, Problem, error, layer  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CONFIG = moejit.MoeConfig(num_experts=8, top_k=2, hidden_size=64, intermediate_size=48)
TAILS = CONFIG.replace(hidden_size=72, intermediate_size=40)  # no multiples of 16
ODD = TAILS.replace(dtype="f32", intermediate_size=20)  # filled up whatever the vectors of the processor
LAYERS = [
    CONFIG,
    TAILS,
    TAILS.replace(dtype="f16", gated=False, activation="relu2"),
    TAILS.replace(dtype="f32", bias=True),
    TAILS.replace(interleaved=True, bias=True, activation="swiglu_oai"),
    TAILS.replace(transposed=True, up_first=True),
    TAILS.replace(dtype="f32", transposed=True, interleaved=True, weight_on_input=True),
    TAILS.replace(dtype="f16", transposed=True, interleaved=True, up_first=True, bias=True),
    CONFIG.replace(gated=False, bias=True, transposed=True, hidden_size=8, intermediate_size=8),
    CONFIG.replace(dtype="f32", hidden_size=100, intermediate_size=20),
]


def name_of(config):
    flags = [flag for flag in ("bias", "transposed", "interleaved", "up_first") if getattr(config, flag)]
    return "-".join([config.dtype, f"{config.hidden_size}x{config.intermediate_size}", *flags,
                     *([] if config.gated else ["plain"])])


def close(got, problem):
    return error(got, problem.expected()) < TOLERANCE[problem.config.dtype]


def kernel_of(config, device="cpu", max_tokens=64):
    return moejit.get_kernel(config, device=device, max_tokens=max_tokens, packed=True)


def launch(kernel, problem):
    x, w13, w2, weights, ids = problem.arguments()
    packed = moejit.pack_weights(problem.config, w13, w2, kernel.device)
    return kernel(x, *packed, weights, ids, **problem.biases())


# ---- results ----


@pytest.mark.parametrize("config", LAYERS, ids=name_of)
def test_layers(cpu, config):
    kernel = kernel_of(config)
    assert kernel.config.packed
    for tokens in (0, 1, 9, 40):
        problem = Problem(config, tokens, seed=tokens)
        out = launch(kernel, problem)
        assert out.shape == (tokens, config.hidden_size) and close(out, problem), tokens


@pytest.mark.parametrize("arch", ["x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_each_order(cpu, arch, dtype):
    """The order is that of the device that is named."""
    device = f"cpu:{arch}"
    config = TAILS.replace(dtype=dtype)
    why = moejit.supports(config.replace(packed=True), device)
    if why:
        pytest.skip(why)
    kernel = kernel_of(config, device)
    for tokens in (1, 40):
        problem = Problem(config, tokens)
        assert close(launch(kernel, problem), problem)


def test_shared_experts(cpu):
    """The same as routed ones that every token chooses, with weight 1."""
    whole = TAILS.replace(num_experts=8, top_k=4, dtype="f32")
    config = whole.replace(num_experts=6, top_k=2, num_shared_experts=2)
    problem = Problem(whole, 9)
    problem.ids[:, :2] %= 6
    problem.ids[:, 1] = (problem.ids[:, 0] + 1) % 6
    problem.ids[:, 2:] = (6, 7)
    problem.weights[:, 2:] = 1
    packed = moejit.pack_weights(config, problem.w13, problem.w2)
    out = kernel_of(config)(problem.x, *packed, problem.weights[:, :2].copy(), problem.ids[:, :2].copy())
    want = layer(whole, problem.x, problem.w13, problem.w2, problem.weights, problem.ids)
    assert error(out, want) < TOLERANCE["f32"]


def test_routed(cpu):
    config = TAILS.replace(dtype="f32")
    problem = Problem(config, 7)
    logits = np.random.default_rng(3).standard_normal((7, 8)).astype(np.float32)
    ids, weights = np.empty((7, 2), np.int32), np.empty((7, 2), np.float32)
    packed = moejit.pack_weights(config, problem.w13, problem.w2)
    out = kernel_of(config).routed(problem.x, *packed, logits, topk_ids=ids, topk_weights=weights)
    problem.ids, problem.weights = ids, weights
    assert close(out, problem)


def test_fused_experts(cpu):
    problem = Problem(TAILS, 9)
    x, w13, w2, weights, ids = problem.arguments()
    w1, w2 = moejit.pack_weights(TAILS, w13, w2)
    assert close(moejit.fused_experts(x, w1, w2, weights, ids, packed=True), problem)
    expert_map = np.full(8, -1, np.int32)
    expert_map[4:] = np.arange(4)
    part = moejit.fused_experts(x, w1[4:], w2[4:], weights, ids, expert_map=expert_map, packed=True)
    problem.ids = np.where(ids >= 4, ids, -1)
    assert close(part, problem)
    x, w13, w2, weights, ids = Problem(ODD, 9).arguments()
    w1, w2 = moejit.pack_weights(ODD, w13, w2)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: w2 has shape"):
        moejit.fused_experts(x, w1, w2, weights, ids)  # packed is not said
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: w1 has shape .*packed"):
        moejit.fused_experts(x, w13, w2, weights, ids, packed=True)


# ---- what pack_weights makes ----


@pytest.mark.parametrize("config", LAYERS, ids=name_of)
def test_the_same_elements_and_zeros(cpu, config):
    problem = Problem(config, 0)
    _, w13, w2, _, _ = problem.arguments()
    rows = (2 if config.gated else 1) * config.intermediate_size
    for packed, plain, least, width in zip(moejit.pack_weights(config, w13, w2), (w13, w2), (rows, config.hidden_size),
                                           (config.hidden_size, config.intermediate_size)):
        assert packed.dtype == plain.dtype and packed.flags.c_contiguous and packed.ctypes.data % 64 == 0
        assert packed.shape[0] == 8 and packed.shape[2] == width and least <= packed.shape[1] < least + 32
        for one, other in zip(packed, plain):  # each expert apart from the others
            assert np.array_equal(np.sort(one[one != 0]), np.sort(other[other != 0]))


def test_layouts_give_the_same_bytes(cpu):
    config = TAILS
    _, w13, w2, _, _ = Problem(config, 0).arguments()
    want = moejit.pack_weights(config, w13, w2)
    gate, up = np.split(w13, 2, axis=1)
    alternating = np.stack([gate, up], 2).reshape(w13.shape)
    for fields, made in (({"up_first": True}, np.concatenate([up, gate], 1)),
                         ({"interleaved": True}, alternating),
                         ({"interleaved": True, "up_first": True}, np.stack([up, gate], 2).reshape(w13.shape))):
        for transposed in (False, True):
            weights = [np.ascontiguousarray(a.swapaxes(1, 2)) if transposed else a for a in (made, w2)]
            got = moejit.pack_weights(config.replace(transposed=transposed, **fields), *weights)
            assert all(np.array_equal(a, b) for a, b in zip(got, want)), (fields, transposed)


def test_forms_of_the_arguments(cpu):
    problem = Problem(TAILS, 0)
    _, w13, w2, _, _ = problem.arguments()
    want = moejit.pack_weights(TAILS, w13, w2)

    def same(got):
        return all(np.array_equal(a, b) for a, b in zip(got, want))

    for config in (TAILS.replace(packed=True), TAILS.to_dict(), TAILS.to_json(), TAILS.replace(packed=True).to_json()):
        assert same(moejit.pack_weights(config, w13, w2, "cpu"))
    assert same(moejit.pack_weights(TAILS, w13, w2, device="auto"))
    alone = moejit.pack_weights(TAILS, w13, None), moejit.pack_weights(TAILS, None, w2)
    assert alone[0][1] is None and alone[1][0] is None and same((alone[0][0], alone[1][1]))
    out = np.full_like(want[0], 7), np.full_like(want[1], 7)
    got = moejit.pack_weights(TAILS, w13, w2, out=out)
    assert got[0] is out[0] and got[1] is out[1] and same(got)
    half = moejit.pack_weights(TAILS, w13, w2, out=(None, np.full_like(want[1], 7)))
    assert same(half)
    frozen = w13.copy()
    frozen.flags.writeable = False
    assert same(moejit.pack_weights(TAILS, frozen, w2))


def test_ml_dtypes(cpu):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    _, w13, w2, _, _ = Problem(TAILS, 0).arguments()
    got = moejit.pack_weights(TAILS, w13.view(ml_dtypes.bfloat16), w2.view(ml_dtypes.bfloat16))
    assert all(one.dtype == ml_dtypes.bfloat16 for one in got)
    assert all(np.array_equal(a.view(np.uint16), b) for a, b in zip(got, moejit.pack_weights(TAILS, w13, w2)))


class Foreign:
    """An array that exports DLPack and nothing else; on a GPU where that is asked for."""

    def __init__(self, array, on_gpu=False):
        self.array, self.on_gpu = array, on_gpu

    def __dlpack_device__(self):
        return (2, 0) if self.on_gpu else self.array.__dlpack_device__()

    def __dlpack__(self, **keywords):
        capsule = self.array.__dlpack__(**({} if self.on_gpu else keywords))
        if self.on_gpu:
            tensor = _tensors._DLTensor.from_address(_tensors._get_pointer(capsule, b"dltensor"))
            tensor.device_type = 2
        return capsule


def test_dlpack(cpu):
    config = TAILS.replace(dtype="f32")
    _, w13, w2, _, _ = Problem(config, 0).arguments()
    want = moejit.pack_weights(config, w13, w2)
    out = tuple(np.empty_like(one) for one in want)
    moejit.pack_weights(config, Foreign(w13), Foreign(w2), out=out)
    assert all(np.array_equal(a, b) for a, b in zip(out, want))
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: out = None"):
        moejit.pack_weights(config, Foreign(w13), Foreign(w2))
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: w13 is on cuda:0: must be on cpu"):
        moejit.pack_weights(config, Foreign(w13, on_gpu=True), w2)


# ---- the config ----


def test_config():
    packed = CONFIG.replace(packed=True)
    assert moejit.MoeConfig.from_json(packed.to_json()) == packed != CONFIG
    assert '"up_first":false,"packed":true,"num_shared_experts":0' in packed.to_json()
    assert not CONFIG.packed and '"packed":true' not in CONFIG.to_json()
    assert packed.shard(2).packed
    with pytest.raises(moejit.DataError, match="packed"):
        CONFIG.replace(packed="yes").check()


# ---- what is refused ----


def misaligned(array):
    memory = np.zeros(array.nbytes + 16, np.uint8)
    begin = -memory.ctypes.data % 16 + 2
    return memory[begin:begin + array.nbytes].view(array.dtype).reshape(array.shape)


BAD = [
    ("w13", lambda a, b: (a.astype(np.float32), b), "has dtype f32: must be bf16 or u16"),
    ("w13", lambda a, b: (a[:, :-2].copy(), b), r"has shape \[8, 78, 72\]: must be \[8, 80, 72\], \[E, 2I, H\]"),
    ("w13", lambda a, b: (a[0], b), "has shape"),
    ("w13", lambda a, b: (np.asfortranarray(a), b), "row-major"),
    ("w13", lambda a, b: (a.tolist(), b), "has type list"),
    ("w13", lambda a, b: (np.ma.masked_array(a), b), "masked"),
    ("w13", lambda a, b: (misaligned(a), b), "must be aligned to 16 bytes"),
    ("w2", lambda a, b: (a, b[:4]), r"has shape \[4, 72, 40\]: must be \[8, 72, 40\], \[E, H, I\]"),
    ("w2", lambda a, b: (a, b.swapaxes(1, 2)), "has shape"),
    ("w2", lambda a, b: (a, np.zeros((8, 72, 80), np.uint16)[:, :, ::2]), "row-major"),
    ("w2", lambda a, b: (None, b.astype(np.float16)), "has dtype f16"),
    ("w13", lambda a, b: (None, None), "is None"),
]


@pytest.mark.parametrize("field,change,words", BAD)
def test_errors_name_the_argument(field, change, words):
    _, w13, w2, _, _ = Problem(TAILS, 0).arguments()
    with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {field} .*{words}"):
        moejit.pack_weights(TAILS, *change(w13, w2))


def test_out_is_checked():
    _, w13, w2, _, _ = Problem(TAILS, 0).arguments()
    want = moejit.pack_weights(TAILS, w13, w2)
    frozen = want[0].copy()
    frozen.flags.writeable = False
    memory = np.zeros(1 << 17, np.uint16)
    within = memory[:want[0].size].reshape(want[0].shape)
    source = memory[8:8 + w13.size].reshape(w13.shape)
    other = memory[64:64 + want[1].size].reshape(want[1].shape)
    for out, words in (((frozen, None), "packed_w13 is read-only"), ((w13[:4], None), "packed_w13 has shape"),
                       ((None, want[1].astype(np.float32)), "packed_w2 has dtype"), ((want[0],), "out: must be"),
                       (want[0], "out: must be"), ((within, other), "packed_w2 overlaps packed_w13")):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {words}"):
            moejit.pack_weights(TAILS, w13, w2, out=out)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: packed_w13 overlaps w13"):
        moejit.pack_weights(TAILS, source, w2, out=(within, None))
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: packed_w2 overlaps w13"):
        moejit.pack_weights(TAILS, source, w2, out=(None, other))
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: w2 is None: .*packed_w2"):
        moejit.pack_weights(TAILS, w13, None, out=want)


def test_devices_and_configs():
    _, w13, w2, _, _ = Problem(TAILS, 0).arguments()
    for device, kind in (("cuda:0", moejit.Unsupported), ("cuda", moejit.Unsupported), ("hip:0", moejit.Unsupported),
                         ("abacus", moejit.NotFound)):
        with pytest.raises((kind, moejit.Unavailable)):  # Unavailable: no such GPU here
            moejit.pack_weights(TAILS, w13, w2, device)
    if moejit.supports(TAILS, "sim:sm_90a") is None:
        with pytest.raises(moejit.Unsupported, match="^UNSUPPORTED: device = sim:sm_90a: must be the CPU"):
            moejit.pack_weights(TAILS, w13, w2, "sim:sm_90a")
        assert "packed = true: must be false" in moejit.supports(TAILS.replace(packed=True), "sim:sm_90a")
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: device has type int"):
        moejit.pack_weights(TAILS, w13, w2, 0)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: top_k = 9"):
        moejit.pack_weights(TAILS.replace(top_k=9), w13, w2)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: config has type NoneType"):
        moejit.pack_weights(None, w13, w2)


def test_kernels_tell_packed_shapes_from_others(cpu):
    x, w13, w2, weights, ids = Problem(ODD, 4).arguments()
    packed13, packed2 = moejit.pack_weights(ODD, w13, w2)
    packed, plain = kernel_of(ODD), moejit.get_kernel(ODD, device=cpu, max_tokens=64)
    assert packed.config != plain.config
    for kernel, a, b, words in ((packed, w13, packed2, r"w13 has shape \[8, 40, 72\]: must be \[8, \d+, 72\], packed"),
                                (packed, packed13, w2, r"w2 has shape \[8, 72, 20\]: must be \[8, \d+, 20\], packed"),
                                (packed, np.asfortranarray(packed13), packed2, "w13 has gaps"),
                                (packed, packed13.astype(np.float16), packed2, "w13 has dtype"),
                                (plain, packed13, w2, "w13 has shape"), (plain, w13, packed2, "w2 has shape")):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {words}"):
            kernel(x, a, b, weights, ids)
    inside = packed2.reshape(-1)[-x.size:].reshape(x.shape)  # where the rows that are filled up end
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: out overlaps w2:"):
        packed(x, packed13, packed2, weights, ids, out=inside)


def test_a_library_that_is_older(monkeypatch):
    lib = moejit._library.library()
    monkeypatch.setattr(lib, "c", types.SimpleNamespace())
    with pytest.raises(moejit.Unsupported, match="no moejit_packed_bytes: it is older"):
        moejit.pack_weights(CONFIG, None, np.zeros((8, 64, 48), np.uint16))


def test_sizes_are_the_library_s():
    lib, w13, w2 = moejit._library.library(), ctypes.c_int64(), ctypes.c_int64()
    packed = moejit.pack_weights(TAILS, *Problem(TAILS, 0).arguments()[1:3])
    with moejit.config.ConfigHandle.of(TAILS) as handle:
        lib.check(lib.c.moejit_packed_bytes(handle.pointer, None, ctypes.byref(w13), ctypes.byref(w2)))
    assert (packed[0].nbytes, packed[1].nbytes) == (w13.value, w2.value)


# ---- the guide ----


def test_the_example_of_the_guide_runs(cpu):
    with open(os.path.join(ROOT, "docs", "python.md"), encoding="utf-8") as file:
        section = file.read().partition("## Packed weights")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(code, {})
