"""torch tensors: the operators, torch.compile, fused_experts and route."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import moejit  # noqa: E402
import moejit.torch_ops  # noqa: E402
from reference import Problem  # noqa: E402
from torch_problem import CONFIG, close, tensors  # noqa: E402


# ---- operators ----


def test_operators(cpu):
    problem = Problem(CONFIG, 5)
    arguments = tensors(problem)
    out = torch.ops.moejit.fused_moe(*arguments)
    assert close(out, problem)
    written = torch.empty_like(out)
    torch.ops.moejit.fused_moe_out(*arguments, written)
    assert torch.equal(out, written)


def test_operator_of_a_layer_with_everything(cpu):
    config = CONFIG.replace(bias=True, activation="swiglu_oai", transposed=True, interleaved=True, dtype="f32")
    problem = Problem(config, 6)
    b13, b2 = torch.from_numpy(problem.b13), torch.from_numpy(problem.b2)
    layer = moejit.torch_ops.layer_json(activation="swiglu_oai", transposed=True, interleaved=True)
    assert close(torch.ops.moejit.fused_moe(*tensors(problem), b13, b2, layer), problem)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: b13"):
        torch.ops.moejit.fused_moe(*tensors(problem), b13, None, layer)
    with pytest.raises(moejit.InvalidArgument, match="layer"):
        torch.ops.moejit.fused_moe(*tensors(problem), b13, b2, '{"colour": 1}')
    for wrong in ("[1]", "1", '{"num_shared_experts": "1"}', '{"router": {"colour": 1}}', "{"):
        with pytest.raises(moejit.InvalidArgument, match="layer = "):
            torch.ops.moejit.fused_moe(*tensors(problem), b13, b2, wrong)


def test_opcheck(cpu):
    arguments = tensors(Problem(CONFIG, 5))
    torch.library.opcheck(torch.ops.moejit.fused_moe.default, arguments)
    torch.library.opcheck(torch.ops.moejit.fused_moe_out.default, (*arguments, torch.empty_like(arguments[0])))


def test_compile(cpu):
    def block(x, w13, w2, weights, ids):
        return torch.ops.moejit.fused_moe(x * 2, w13, w2, weights, ids) + x

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for tokens in (5, 9):
            problem = Problem(CONFIG, tokens)
            arguments = tensors(problem)
            assert torch.equal(compiled(*arguments), block(*arguments))


def test_compile_refuses_gradients(cpu):
    x, w13, w2, weights, ids = tensors(Problem(CONFIG, 5))
    compiled = torch.compile(lambda w: torch.ops.moejit.fused_moe(x, w, w2, weights, ids), fullgraph=True,
                             backend="aot_eager")
    with pytest.raises(Exception, match="no_grad"):
        compiled(torch.nn.Parameter(w13))


def test_forward_mode_is_refused(cpu):
    """There an operator is given plain tensors, and would return a tangent of zeros."""
    x, *rest = tensors(Problem(CONFIG, 5))
    with pytest.raises(moejit.Unsupported, match="forward-mode"):
        torch.func.jvp(lambda x: torch.ops.moejit.fused_moe(x, *rest), (x,), (x,))


def test_export(cpu):
    problem = Problem(CONFIG, 5)
    x, *rest = tensors(problem)

    class Layer(torch.nn.Module):
        def forward(self, x):
            return torch.ops.moejit.fused_moe(x, *rest)

    assert close(torch.export.export(Layer(), (x,)).module()(x), problem)
    assert close(torch.vmap(lambda one: torch.ops.moejit.fused_moe(one, *rest))(x[None])[0], problem)


def test_inductor(cpu):
    compiled = torch.compile(torch.ops.moejit.fused_moe, fullgraph=True)
    problem = Problem(CONFIG, 5)
    with torch.no_grad():
        assert close(compiled(*tensors(problem)), problem)


def test_more_tokens_than_one_launch_takes(cpu, monkeypatch):
    monkeypatch.setattr(moejit.ops, "_MAX_TOKENS", 16)
    config = CONFIG.replace(intermediate_size=32)
    problem = Problem(config, 37)
    arguments = tensors(problem)
    assert close(torch.ops.moejit.fused_moe(*arguments), problem)
    assert close(moejit.fused_experts(*arguments), problem)


def test_lengths_are_checked_before_cutting(cpu, monkeypatch):
    """Slices of tensors that are too long, or end where a launch ends, look right one by one."""
    monkeypatch.setattr(moejit.ops, "_MAX_TOKENS", 16)
    config = CONFIG.replace(intermediate_size=80)
    x, w13, w2, weights, ids = tensors(Problem(config, 40))
    with pytest.raises(moejit.InvalidArgument, match=r"topk_ids has shape \[40, 2\]: must be \[32, 2\]"):
        torch.ops.moejit.fused_moe(x[:32], w13, w2, weights[:32], ids)
    with pytest.raises(moejit.InvalidArgument, match=r"topk_weights has shape \[32, 2\]: must be \[40, 2\]"):
        torch.ops.moejit.fused_moe(x, w13, w2, weights[:32], ids)
    out = torch.full((48, 64), 7.0, dtype=torch.bfloat16)
    for wrong in (out, out[:32], out[:40, :32]):
        with pytest.raises(moejit.InvalidArgument, match=r"out has shape .*: must be \[40, 64\]"):
            torch.ops.moejit.fused_moe_out(x, w13, w2, weights, ids, wrong)
        with pytest.raises(moejit.InvalidArgument, match=r"out has shape .*: must be \[40, 64\]"):
            moejit.fused_experts(x, w13, w2, weights, ids, out=wrong)
    assert bool((out == 7).all())  # nothing was launched


# ---- fused_experts and route ----


def test_fused_experts(cpu):
    problem = Problem(CONFIG, 5)
    x, w13, w2, weights, ids = tensors(problem, torch.int64)
    assert close(moejit.fused_experts(x, w13, w2, weights, ids), problem)
    assert moejit.fused_experts(x, w13, w2, weights, ids, inplace=True) is x and close(x, problem)


def test_fused_experts_names_its_own_arguments(cpu):
    x, w1, w2, weights, ids = tensors(Problem(CONFIG, 5))
    good = dict(hidden_states=x, w1=w1, w2=w2, topk_weights=weights, topk_ids=ids)
    moejit.fused_experts(**good)
    for name, value, word in (
            ("hidden_states", x.double(), "has dtype float64: must be f32, bf16 or f16"),
            ("hidden_states", x.int(), "has dtype i32"),
            ("hidden_states", torch.empty(64, 5, dtype=torch.bfloat16).t(), "row-major"),
            ("hidden_states", None, "has type NoneType"),
            ("hidden_states", x[0], "has shape"),
            ("w1", None, "has type NoneType"),
            ("w1", w1.half(), "has dtype f16"),
            ("w1", torch.empty(8, 64, 96, dtype=torch.bfloat16).transpose(1, 2), "row-major"),
            ("w1", w1[:4].contiguous(), "shape"),
            ("w2", None, "has type NoneType"),
            ("w2", w2.half(), "has dtype f16"),
            ("w2", w2[:, :32].contiguous(), "has shape"),
            ("topk_ids", None, "has type NoneType"),
            ("topk_ids", ids[:3], "has shape"),
            ("topk_weights", None, "has type NoneType"),
            ("topk_weights", weights[:3], "has shape"),
            ("expert_map", torch.zeros(2, 4, dtype=torch.int32), "has shape"),
            ("expert_map", torch.zeros(0, dtype=torch.int32), "has shape"),
            ("expert_map", torch.zeros(8), "has shape .* dtype f32"),
            ("expert_map", np.zeros(8, np.int32), "has type ndarray"),
            ("expert_map", [0] * 8, "has type list"),
            ("out", x, "overlaps hidden_states"),
    ):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {'w2' if word == 'shape' else name} .*{word}"):
            moejit.fused_experts(**{**good, name: value})
    config = CONFIG.replace(bias=True, dtype="f32")
    problem = Problem(config, 5)
    b1, b2 = torch.from_numpy(problem.b13), torch.from_numpy(problem.b2)
    for name, biases in (("w1_bias", (b1[:, :3], b2)), ("w2_bias", (b1, b2.half()))):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {name} has"):
            moejit.fused_experts(*tensors(problem), w1_bias=biases[0], w2_bias=biases[1])


def test_expert_map(cpu):
    """Two ranks with half of the experts each: the sum is the whole."""
    problem = Problem(CONFIG.replace(dtype="f32"), 9)
    x, w13, w2, weights, ids = tensors(problem, torch.int64)
    whole = moejit.fused_experts(x, w13, w2, weights, ids)
    parts = []
    for rank in range(2):
        mine = slice(rank * 4, rank * 4 + 4)
        expert_map = torch.full((8,), -1, dtype=torch.int32)
        expert_map[mine] = torch.arange(4, dtype=torch.int32)
        parts.append(moejit.fused_experts(x, w13[mine].contiguous(), w2[mine].contiguous(), weights, ids,
                                          global_num_experts=8, expert_map=expert_map))
    assert torch.allclose(whole, parts[0] + parts[1], atol=1e-5)


def test_route(cpu):
    logits = torch.randn(33, 16, generator=torch.Generator().manual_seed(1))
    weights, ids = moejit.route(logits, 4, renormalize=True)
    score, order = logits.softmax(-1).topk(4)
    assert torch.equal(ids.long(), order)
    assert torch.allclose(weights, score / score.sum(-1, keepdim=True), atol=1e-6)
    bias = torch.randn(16, generator=torch.Generator().manual_seed(2))
    weights, ids = moejit.route(logits.bfloat16(), 3, scoring="sigmoid", correction_bias=bias, scaling_factor=2.5)
    score = logits.bfloat16().float().sigmoid()
    assert torch.equal(ids.long(), (score + bias).topk(3).indices)
    assert torch.allclose(weights, score.gather(1, ids.long()) * 2.5, atol=1e-6)


def test_dlpack_objects_in_fused_experts(cpu):
    class Foreign:
        def __init__(self, tensor):
            self.__dlpack_device__, self.__dlpack__ = tensor.__dlpack_device__, tensor.__dlpack__

    problem = Problem(CONFIG, 5)
    out = torch.empty(5, 64, dtype=torch.bfloat16)
    foreign = [Foreign(tensor) for tensor in tensors(problem)]
    moejit.fused_experts(*foreign, out=out)
    assert close(out, problem)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: inplace = True: hidden_states has type Foreign"):
        moejit.fused_experts(*foreign, out=out, inplace=True)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: topk_ids has type Foreign"):
        moejit.fused_experts(*foreign, out=out, expert_map=torch.arange(8, dtype=torch.int32))
