"""Packed weights as torch tensors: pack_weights, the direct call, fused_experts and the operators."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import moejit  # noqa: E402
import moejit.torch_ops  # noqa: E402
from moejit import _torch_call  # noqa: E402
from reference import Problem  # noqa: E402
from torch_problem import CONFIG, DTYPES, close, tensors  # noqa: E402

TAILS = CONFIG.replace(hidden_size=72, intermediate_size=40)
ODD = TAILS.replace(dtype="f32", intermediate_size=20)  # filled up whatever the vectors of the processor
LAYERS = [
    TAILS,
    TAILS.replace(dtype="f16", gated=False, activation="relu2"),
    TAILS.replace(dtype="f32", bias=True, activation="swiglu_oai", interleaved=True, transposed=True),
    TAILS.replace(up_first=True, transposed=True),
]


def packed_arguments(problem):
    x, w13, w2, weights, ids = tensors(problem)
    return (x, *moejit.pack_weights(problem.config, w13, w2), weights, ids)


def biases(problem):
    dtype = DTYPES[problem.config.dtype]
    return {name: torch.from_numpy(getattr(problem, name)).to(dtype) for name in problem.biases()}


@pytest.mark.parametrize("path", ["exchange_table", "attributes"])
@pytest.mark.parametrize("config", LAYERS, ids=lambda c: f"{c.dtype}-{c.activation}")
def test_call(cpu, config, path, monkeypatch):
    if path == "exchange_table" and not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip("this torch has no exchange table of DLPack")
    kernel = moejit.get_kernel(config, device=cpu, max_tokens=64, packed=True)
    if path == "attributes":
        kernel._torch = _torch_call._by_attributes(kernel, torch)
    for tokens in (1, 0, 9, 40):  # the first makes the quick path, the others take it
        problem = Problem(config, tokens, seed=tokens)
        assert close(kernel(*packed_arguments(problem), **biases(problem)), problem)
    if path == "exchange_table" or not config.bias:
        monkeypatch.setattr(kernel, "_call", None)
        assert close(kernel(*packed_arguments(problem), **biases(problem)), problem)


def test_pack_weights():
    for dtype in ("bf16", "f16", "f32"):
        config = TAILS.replace(dtype=dtype)
        problem = Problem(config, 0)
        _, w13, w2, _, _ = tensors(problem)
        got = moejit.pack_weights(config, w13, w2, torch.device("cpu"))
        want = moejit.pack_weights(config, *problem.arguments()[1:3])
        for one, other in zip(got, want):
            assert one.dtype == DTYPES[dtype] and one.is_contiguous() and tuple(one.shape) == other.shape
            bits = np.int32 if dtype == "f32" else np.int16
            assert np.array_equal(one.view(getattr(torch, np.dtype(bits).name)).numpy(), other.view(bits))
        out = tuple(torch.empty_like(one) for one in got)
        assert moejit.pack_weights(config, w13, w2, out=out)[0] is out[0]
        assert all(torch.equal(a, b) for a, b in zip(out, got))
        assert torch.equal(moejit.pack_weights(config, None, w2)[1], got[1])


def test_refused():
    _, w13, w2, _, _ = tensors(Problem(TAILS, 0))
    for change, words in (((w13.to("meta"), w2), "w13 is on meta: must be on cpu"), ((w13, w2.half()), "w2 has dtype f16"),
                          ((w13.transpose(1, 2), w2), "w13 has shape"), ((w13, w2[:, :64]), "w2 has shape"),
                          ((w13.to_sparse(), w2), "w13 has layout"),
                          ((torch.empty(8, 72, 80, dtype=w13.dtype).transpose(1, 2), w2), "w13 has gaps")):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {words}"):
            moejit.pack_weights(TAILS, *change)
    with pytest.raises((moejit.Unsupported, moejit.Unavailable)):
        moejit.pack_weights(TAILS, w13, w2, torch.device("cuda", 0))
    if torch.cuda.is_available():
        with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: w13 is on .*must be on cpu"):
            moejit.pack_weights(TAILS, w13.cuda(), w2)
        with pytest.raises(moejit.Unsupported, match="packed = true"):
            moejit.get_kernel(TAILS, device="cuda:0", packed=True)
    with pytest.raises(moejit.Unsupported, match="gradient"):
        moejit.pack_weights(TAILS, torch.nn.Parameter(w13), w2)
    with torch.no_grad():
        got = moejit.pack_weights(TAILS, torch.nn.Parameter(w13), w2)
    assert not got[0].requires_grad and torch.equal(got[0], moejit.pack_weights(TAILS, w13, w2)[0])


def test_kernels_tell_packed_shapes_from_others(cpu):
    x, w13, w2, weights, ids = tensors(Problem(ODD, 4))
    packed13, packed2 = moejit.pack_weights(ODD, w13, w2)
    kernel = moejit.get_kernel(ODD, device=cpu, max_tokens=64, packed=True)
    kernel(x, packed13, packed2, weights, ids)
    for a, b, words in ((w13, packed2, "w13 has shape .*packed"), (packed13, w2, "w2 has shape .*packed"),
                        (packed13.half(), packed2, "w13 has dtype")):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {words}"):
            kernel(x, a, b, weights, ids)


def test_fused_experts(cpu):
    config = TAILS.replace(bias=True)
    problem = Problem(config, 9)
    b13, b2 = biases(problem).values()
    out = moejit.fused_experts(*packed_arguments(problem), w1_bias=b13, w2_bias=b2, packed=True)
    assert close(out, problem)


@pytest.mark.parametrize("transposed", [False, True])
def test_operators(cpu, transposed):
    """Of packed weights I is the last dimension of w2, whatever they were packed from."""
    problem = Problem(TAILS.replace(transposed=transposed), 9)
    arguments = packed_arguments(problem)
    layer = moejit.torch_ops.layer_json(packed=True, transposed=transposed)
    out = torch.ops.moejit.fused_moe(*arguments, None, None, layer)
    assert close(out, problem)
    again = torch.empty_like(out)
    torch.ops.moejit.fused_moe_out(*arguments, again, None, None, layer)
    assert torch.equal(out, again)
    assert torch.equal(torch.ops.moejit.fused_moe(*arguments, None, None, layer), out)  # the quick path
    meta = torch.ops.moejit.fused_moe(*(one.to("meta") for one in arguments), None, None, layer)
    assert meta.shape == out.shape and meta.dtype == out.dtype
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: w13 has shape"):
        torch.ops.moejit.fused_moe(*tensors(Problem(ODD, 9)), None, None, '{"packed": true}')


def test_compile(cpu):
    layer = moejit.torch_ops.layer_json(packed=True)

    def block(x, w13, w2, weights, ids):
        return torch.ops.moejit.fused_moe(x * 2, w13, w2, weights, ids, None, None, layer) + x

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for tokens in (5, 9):
            arguments = packed_arguments(Problem(TAILS, tokens))
            assert torch.equal(compiled(*arguments), block(*arguments))
    torch.library.opcheck(torch.ops.moejit.fused_moe.default, (*arguments, None, None, layer))
