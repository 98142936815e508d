"""torch tensors: the direct call, what it refuses, gradients, other threads."""

import copy
import pickle
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import moejit  # noqa: E402
import moejit.torch_ops  # noqa: E402,F401
from moejit import _torch_call  # noqa: E402
from reference import Problem  # noqa: E402
from torch_problem import CONFIG, DTYPES, close, tensors  # noqa: E402


@pytest.fixture(scope="module", params=["exchange_table", "attributes"])
def kernel(cpu, request):
    """With the quick path that this torch has, and with that of older ones."""
    made = moejit.get_kernel(CONFIG, device=cpu, max_tokens=64)
    if request.param == "exchange_table" and not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip("this torch has no exchange table of DLPack")
    if request.param == "attributes":
        made._torch = _torch_call._by_attributes(made, torch)
    return made


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
def test_call(cpu, dtype, ids):
    config = CONFIG.replace(dtype=dtype)
    kernel = moejit.get_kernel(config, device=torch.device("cpu"), max_tokens=64)
    for tokens in (1, 0, 7, 64, 3):  # the first makes the quick path, the others take it
        problem = Problem(config, tokens, seed=tokens)
        arguments = tensors(problem, ids)
        out = kernel(*arguments)
        assert out.dtype == DTYPES[dtype] and close(out, problem)
        again = torch.full_like(out, float("nan"))
        assert kernel(*arguments, again) is again
        assert torch.equal(out, again)  # the same bits


def test_the_quick_path_is_taken(kernel, monkeypatch):
    problem = Problem(CONFIG, 5)
    arguments = tensors(problem)
    want = kernel(*arguments)
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "_call", None)
        for out in (None, torch.empty_like(want)):
            assert torch.equal(kernel(*arguments, out), want)
        assert torch.equal(torch.nn.functional.relu(kernel(*arguments)), want.relu())
    if "exchange" in kernel._torch.__qualname__:
        config = CONFIG.replace(bias=True, activation="swiglu_oai", transposed=True, interleaved=True, dtype="f32")
        problem = Problem(config, 6)
        biases = {name: torch.from_numpy(bias) for name, bias in problem.biases().items()}
        biased = moejit.get_kernel(config, device="cpu", max_tokens=64)
        biased(*tensors(problem), **biases)
        monkeypatch.setattr(biased, "_call", None)
        assert close(biased(*tensors(problem), **biases), problem)


def test_half_precision_weights_are_converted(kernel):
    problem = Problem(CONFIG, 5)
    x, w13, w2, weights, ids = tensors(problem)
    problem.weights = weights.bfloat16().float().numpy()
    assert close(kernel(x, w13, w2, weights.bfloat16(), ids), problem)


BAD = [
    ("x", lambda a: (a[0].float(), *a[1:]), "dtype"),
    ("x", lambda a: (a[0][:, :32], *a[1:]), "shape"),
    ("x", lambda a: (torch.empty(4, 128, dtype=torch.bfloat16)[:, ::2], *a[1:]), "row-major"),
    ("x", lambda a: (torch.empty(4 * 64 + 1, dtype=torch.bfloat16)[1:].view(4, 64), *a[1:]), "aligned"),
    ("x", lambda a: (a[0].to("meta"), *a[1:]), "on meta"),
    ("x", lambda a: ("x", *a[1:]), "type str"),
    ("w13", lambda a: (a[0], a[1].transpose(1, 2), *a[2:]), "shape"),
    ("w13", lambda a: (a[0], torch.empty(8, 64, 96, dtype=torch.bfloat16).transpose(1, 2), *a[2:]), "row-major"),
    ("w13", lambda a: (a[0], a[1].half(), *a[2:]), "dtype"),
    ("w2", lambda a: (*a[:2], a[2][:4], *a[3:]), "shape"),
    ("topk_weights", lambda a: (*a[:3], a[3].double(), a[4]), "dtype"),
    ("topk_weights", lambda a: (*a[:3], a[3][:2], a[4]), "shape"),
    ("topk_ids", lambda a: (*a[:4], a[4].to(torch.int16)), "dtype"),
    ("topk_ids", lambda a: (*a[:4], a[4][:, :1]), "shape"),
]


@pytest.mark.parametrize("name,change,word", BAD)
def test_errors_name_the_argument(kernel, name, change, word):
    arguments = tensors(Problem(CONFIG, 4))
    kernel(*arguments)
    with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {name} .*{word}"):
        kernel(*change(arguments))
    with pytest.raises(ValueError):
        kernel(*change(arguments))


def test_out_is_checked(kernel):
    arguments = tensors(Problem(CONFIG, 4))
    kernel(*arguments)
    for out, word in ((arguments[0], "overlaps"), (torch.empty(4, 32), "dtype"),
                      (torch.empty(5, 64, dtype=torch.bfloat16), "shape")):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: out .*{word}"):
            kernel(*arguments, out)
    x, w13, w2, weights, ids = arguments
    for name, own, weight in (("w13", "w1", w13), ("w2", "w2", w2)):
        inside = weight.view(-1)[64:64 + x.numel()].view_as(x)
        for call, called in ((kernel, name), (moejit.fused_experts, own)):
            with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: out overlaps {called}:"):
                call(x, w13, w2, weights, ids, out=inside)


def test_out_over_the_choice(kernel):
    """Neither over the ids nor over the weights that are still to be read, of whichever dtype."""
    problem = Problem(CONFIG, 4)
    x, w13, w2, weights, ids = tensors(problem)
    for call in (kernel, torch.ops.moejit.fused_moe_out, lambda *a: moejit.fused_experts(*a[:-1], out=a[-1])):
        for dtype in (torch.int32, torch.int64):
            out = torch.zeros_like(x)
            mine = out.view(dtype).view(-1)[-8:].view(4, 2).copy_(ids)
            with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: out overlaps topk_ids:"):
                call(x, w13, w2, weights, mine, out)
        for dtype in (torch.float32, torch.float16):
            out = torch.zeros_like(x)
            mine = out.view(dtype).view(-1)[:8].view(4, 2).copy_(weights)
            with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: out overlaps topk_weights:"):
                call(x, w13, w2, mine, ids, out)
    # What touches it without sharing a byte is fine.
    whole = torch.zeros(4 * 64 + 16, dtype=torch.bfloat16)
    out, mine = whole[:256].view(4, 64), whole[256:].view(torch.int32).view(4, 2).copy_(ids)
    assert close(kernel(x, w13, w2, weights, mine, out), problem)


def test_outputs_of_routed_are_separate(kernel):
    x, w13, w2, _, _ = tensors(Problem(CONFIG, 4))
    logits = torch.randn(4, 8)
    both = torch.zeros(4, 2)
    for keywords, words in ((dict(topk_weights=both, topk_ids=both.view(torch.int32)), "topk_ids overlaps topk_weights"),
                            (dict(topk_weights=logits.view(-1)[:8].view(4, 2)), "topk_weights overlaps router_logits"),
                            (dict(out=x), "out overlaps x"),
                            (dict(topk_ids=x.view(torch.int32).view(-1)[:8].view(4, 2)), "topk_ids overlaps x")):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {words}:"):
            kernel.routed(x, w13, w2, logits, **keywords)


def test_negated_views_are_refused(kernel):
    """Their memory holds the other sign, which only torch's own operators know."""
    arguments = tensors(Problem(CONFIG, 4))
    kernel(*arguments)
    for position, name in enumerate(("x", "w13", "w2", "topk_weights", "topk_ids", "out")):
        wrong = [*arguments, torch.empty_like(arguments[0])]
        wrong[position] = torch._neg_view(wrong[position])
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {name} is a negated view"):
            kernel(*wrong)
    x, w13, w2, weights, ids = arguments
    negated = torch._neg_view(weights)  # the dispatcher resolves what an operator is given
    assert torch.equal(torch.ops.moejit.fused_moe(x, w13, w2, negated, ids), kernel(x, w13, w2, -weights, ids))
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: router_logits is a negated view"):
        moejit.route(torch._neg_view(torch.randn(4, 8)), 2)


def test_weights_that_change_are_seen(kernel):
    """The quick path remembers weights by identity; other data under the same object must not pass."""
    x, w13, w2, weights, ids = tensors(Problem(CONFIG, 4))
    parameter = torch.nn.Parameter(w13, requires_grad=False)
    kernel(x, parameter, w2, weights, ids)
    other = Problem(CONFIG, 4, seed=9)
    parameter.data = tensors(other)[1]
    problem = Problem(CONFIG, 4)
    problem.w13 = other.w13
    assert close(kernel(x, parameter, w2, weights, ids), problem)
    parameter.data = torch.empty(8, 96, 64)
    with pytest.raises(moejit.InvalidArgument, match="w13 .*dtype"):
        kernel(x, parameter, w2, weights, ids)
    parameter.data = torch.empty(8, 48, 64, dtype=torch.bfloat16)
    with pytest.raises(moejit.InvalidArgument, match="w13 .*shape"):
        kernel(x, parameter, w2, weights, ids)


def test_weights_that_are_laid_out_anew_are_seen(kernel, cpu):
    """The same object, shape and address, with other strides."""
    square = CONFIG.replace(hidden_size=96)  # w13 [8, 96, 96]
    x, w13, w2, weights, ids = tensors(Problem(square, 4))
    square = moejit.get_kernel(square, device=cpu, max_tokens=64)
    for _ in range(2):
        square(x, w13, w2, weights, ids)
    w13.transpose_(1, 2)
    with pytest.raises(moejit.InvalidArgument, match="w13 .*row-major"):
        square(x, w13, w2, weights, ids)
    x, w13, w2, weights, ids = tensors(Problem(CONFIG, 4))
    for _ in range(2):
        kernel(x, w13, w2, weights, ids)
    w2.data = w2.data.view(torch.float16)
    with pytest.raises(moejit.InvalidArgument, match="w2 .*dtype"):
        kernel(x, w13, w2, weights, ids)


def test_gradients_are_refused(kernel):
    x, w13, w2, weights, ids = tensors(Problem(CONFIG, 4))
    w13 = torch.nn.Parameter(w13)
    for call in (kernel, torch.ops.moejit.fused_moe):
        with pytest.raises(moejit.Unsupported, match="no_grad"):
            call(x, w13, w2, weights, ids)
        with torch.no_grad():
            call(x, w13, w2, weights, ids)


def test_gradients_of_every_tensor_are_refused(kernel, cpu):
    """Whatever torch would differentiate by, not only x and the large weights."""
    x, w13, w2, weights, ids = tensors(Problem(CONFIG, 4))
    grad = torch.Tensor.requires_grad_

    def refused(call, *arguments, **keywords):
        with pytest.raises(moejit.Unsupported, match="no_grad"):
            call(*arguments, **keywords)
        with torch.no_grad():
            call(*arguments, **keywords)

    kernel(x, w13, w2, weights, ids)  # from here on the quick path
    for call in (kernel, torch.ops.moejit.fused_moe, moejit.fused_experts):
        call(x, w13, w2, weights, ids)
        refused(call, x, w13, w2, grad(weights.clone()), ids)
        refused(call, x, w13, w2, grad(weights.half()), ids)
    leaf = grad(torch.empty_like(x))
    refused(kernel, x, w13, w2, weights, ids, leaf)
    refused(moejit.fused_experts, x, w13, w2, weights, ids, out=leaf)
    refused(torch.ops.moejit.fused_moe_out, x, w13, w2, weights, ids, leaf)

    logits = torch.randn(4, 8)
    refused(kernel.routed, x, w13, w2, grad(logits.clone()))
    refused(kernel.routed, x, w13, w2, logits, leaf)
    refused(kernel.routed, x, w13, w2, logits, topk_weights=grad(torch.empty(4, 2)))
    corrected = moejit.get_kernel(CONFIG, device=cpu, max_tokens=64,
                                  router=moejit.RouterConfig(scoring="sigmoid", correction_bias=True))
    refused(corrected.routed, x, w13, w2, logits, correction_bias=grad(torch.zeros(8)))

    config = CONFIG.replace(bias=True, dtype="f32")
    problem = Problem(config, 4)
    arguments = tensors(problem)
    biased = moejit.get_kernel(config, device=cpu, max_tokens=64)
    for which in range(2):
        b13, b2 = torch.from_numpy(problem.b13), torch.from_numpy(problem.b2)
        grad((b13, b2)[which])
        refused(biased, *arguments, b13=b13, b2=b2)
        refused(torch.ops.moejit.fused_moe, *arguments, b13, b2)
        refused(moejit.fused_experts, *arguments, w1_bias=b13, w2_bias=b2)
        compiled = torch.compile(torch.ops.moejit.fused_moe, fullgraph=True, backend="aot_eager")
        with pytest.raises(Exception, match="no_grad"):
            compiled(*arguments, b13, b2)


def test_tangents_are_refused(kernel):
    """Forward-mode differentiation sets no requires_grad."""
    forward = torch.autograd.forward_ad
    arguments = tensors(Problem(CONFIG, 4))
    kernel(*arguments)
    with forward.dual_level():
        assert close(kernel(*arguments), Problem(CONFIG, 4))
        for position in (0, 1, 2, 3):
            dual = [*arguments]
            dual[position] = forward.make_dual(dual[position], torch.ones_like(dual[position]))
            with pytest.raises(moejit.Unsupported, match="tangent"):
                kernel(*dual)


def test_strict(kernel):
    x, w13, w2, weights, ids = tensors(Problem(CONFIG, 4))
    ids[2, 1] = 8
    kernel(x, w13, w2, weights, ids)
    with pytest.raises(moejit.InvalidArgument, match=r"topk_ids\[2,1\] = 8"):
        kernel(x, w13, w2, weights, ids, strict=True)


def test_wide_ids_stay_out_of_range(kernel):
    problem = Problem(CONFIG, 4)
    x, w13, w2, weights, ids = tensors(problem, torch.int64)
    problem.ids[2, 1] = -1
    for far in (1 << 32, -(1 << 32), 1 << 62):
        ids[2, 1] = far
        for call in (kernel, torch.ops.moejit.fused_moe, moejit.fused_experts):
            assert close(call(x, w13, w2, weights, ids), problem)
        with pytest.raises(moejit.InvalidArgument, match=rf"topk_ids\[2,1\] = {far}: must be within 0..7"):
            kernel(x, w13, w2, weights, ids, strict=True)
        expert_map = torch.arange(8, dtype=torch.int64)
        assert close(moejit.fused_experts(x, w13, w2, weights, ids, expert_map=expert_map), problem)


def test_workspace_of_the_caller(kernel):
    problem = Problem(CONFIG, 4)
    arguments = tensors(problem)
    size = kernel.workspace_size(4)
    whole = torch.empty(size + 256, dtype=torch.uint8)
    begin = -whole.data_ptr() % 256
    assert close(kernel(*arguments, workspace=whole[begin:begin + size]), problem)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: workspace has"):
        kernel(*arguments, workspace=whole[begin:begin + size - 1])


def test_threads(kernel):
    problems = [Problem(CONFIG, 1 + i, seed=i) for i in range(6)]
    bad = []

    def work(problem):
        arguments = tensors(problem)
        first = kernel(*arguments)
        if not close(first, problem):
            bad.append("wrong")
        for _ in range(50):
            if not torch.equal(kernel(*arguments), first):
                bad.append("differs")

    threads = [threading.Thread(target=work, args=(problem,)) for problem in problems]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not bad


def test_odd_tensors_are_named(kernel):
    """What torch calls a tensor, and has no memory that a kernel could read, or another meaning for it."""
    fake_tensor = pytest.importorskip("torch._subclasses").FakeTensorMode
    arguments = tensors(Problem(CONFIG, 4))
    kernel(*arguments)
    x = arguments[0]
    with fake_tensor():
        fake = torch.empty(4, 64, dtype=torch.bfloat16)

    class Wrapper(torch.Tensor):  # as DTensor is one
        @staticmethod
        def __new__(cls):
            return torch.Tensor._make_wrapper_subclass(cls, (4, 64), dtype=torch.bfloat16)

        __torch_dispatch__ = None

    ragged = torch.nested.nested_tensor([x, x])
    for odd, words in ((x.to_sparse(), "x has layout torch.sparse_coo"), (fake, "x is a FakeTensor"),
                       (Wrapper(), "x has type Wrapper and no memory of its own"), (ragged, "x has type Tensor and does not"),
                       (x.to(torch.complex64), "x has dtype complex64"), (x[:1].expand(4, 64), "x has gaps"),
                       (x[None], r"x has shape \[1, 4, 64\]"), (x.tolist(), "x has type list")):
        with pytest.raises(moejit.InvalidArgument, match=f"^INVALID_ARGUMENT: {words}"):
            kernel(odd, *arguments[1:])
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: x has type Tensor and does not show"):
        torch.vmap(lambda one: kernel(one, *arguments[1:]))(torch.stack([x, x]))

    class Named(torch.Tensor):
        pass

    assert torch.equal(kernel(x.as_subclass(Named), *arguments[1:]), kernel(*arguments))


def test_a_trace_of_the_direct_call_is_refused(kernel):
    """It would hold an empty tensor and nothing that fills it; the operator is recorded."""
    x, *rest = tensors(Problem(CONFIG, 4))
    want = kernel(x, *rest)
    with pytest.raises(moejit.Unsupported, match="torch.ops.moejit.fused_moe"):
        torch.jit.trace(lambda x: kernel(x, *rest), (x,))
    traced = torch.jit.trace(lambda x: torch.ops.moejit.fused_moe(x, *rest), (x,))
    assert torch.equal(traced(x), want)


def test_copies_of_a_kernel(kernel):
    problem = Problem(CONFIG, 4)
    for copied in (copy.copy(kernel), copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert copied is not kernel and copied.max_tokens == kernel.max_tokens
        assert close(copied(*tensors(problem)), problem)
        del copied
    assert close(kernel(*tensors(problem)), problem)


def test_dlpack_object(kernel):
    """What exports DLPack and nothing else, as JAX does."""

    class Foreign:
        def __init__(self, tensor):
            self.tensor = tensor

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

        def __dlpack__(self, **keywords):
            return self.tensor.__dlpack__(**keywords)

    problem = Problem(CONFIG, 5)
    out = torch.empty(5, 64, dtype=torch.bfloat16)
    kernel(*[Foreign(tensor) for tensor in tensors(problem)], out)
    assert close(out, problem)
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: out = None"):
        kernel(*[Foreign(tensor) for tensor in tensors(problem)])
    transposed = Foreign(torch.empty(64, 5, dtype=torch.bfloat16).t())
    with pytest.raises(moejit.InvalidArgument, match="^INVALID_ARGUMENT: x .*row-major"):
        kernel(transposed, *tensors(problem)[1:], out)


def test_numpy_and_torch_give_the_same_bits(kernel):
    problem = Problem(CONFIG, 5)
    assert np.array_equal(kernel(*problem.arguments()), kernel(*tensors(problem)).view(torch.uint16).numpy())
