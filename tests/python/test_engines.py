"""The plugins of SGLang and vLLM against stubs of the interfaces that they register with.

The engines themselves are not installed here: the stubs carry what the plugins read, as the engines' sources have it.
"""

import enum
import logging
import sys
import types

import pytest

torch = pytest.importorskip("torch")

import moejit  # noqa: E402
from moejit.integrations import sglang as sglang_plugin  # noqa: E402
from moejit.integrations import vllm as vllm_plugin  # noqa: E402
from reference import Problem, error  # noqa: E402

CONFIG = moejit.MoeConfig(num_experts=8, top_k=2, hidden_size=64, intermediate_size=48, dtype="f32")


def tensors(problem):
    return tuple(torch.from_numpy(a) for a in problem.arguments())


def close(got, problem, factor=1.0):
    return error(got.numpy(), problem.expected() * factor) < 1e-5


def module(monkeypatch, name, **members):
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        path = ".".join(parts[:i])
        if path not in sys.modules:
            monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
    for key, value in members.items():
        setattr(sys.modules[name], key, value)


# ---- SGLang ----


class DispatchMoeRunnerCore:
    def __init__(self, config):
        self.config = config


class StandardCombineInput:
    def __init__(self, hidden_states):
        self.hidden_states = hidden_states


@pytest.fixture
def engine(monkeypatch):
    """A stub of SGLang: its registry of runners and the choices of its command line."""
    cores, choices = {}, []

    def register_moe_runner_core(name, factory):
        if name in cores:
            raise ValueError("registered twice")
        cores[name] = factory

    moe = "sglang.srt.layers.moe"
    module(monkeypatch, f"{moe}.moe_runner.runner", register_moe_runner_core=register_moe_runner_core)
    module(monkeypatch, f"{moe}.moe_runner.base", DispatchMoeRunnerCore=DispatchMoeRunnerCore)
    module(monkeypatch, f"{moe}.utils", resolve_moe_runner_backend=lambda name: f"backend {name}")
    module(monkeypatch, f"{moe}.token_dispatcher.standard", StandardCombineInput=StandardCombineInput)
    module(monkeypatch, "sglang.srt.server_args", add_moe_runner_backend_choices=choices.extend)
    monkeypatch.setattr(sglang_plugin, "_registered", False)
    monkeypatch.delenv("MOEJIT_SGLANG", raising=False)
    return types.SimpleNamespace(cores=cores, choices=choices)


def sglang_call(engine, problem, config=None, **quant):
    x, w13, w2, weights, ids = tensors(problem)
    runner_config = types.SimpleNamespace(**{**dict(
        activation="silu", is_gated=True, apply_router_weight_on_input=False, inplace=False, no_combine=False,
        routed_scaling_factor=None, gemm1_alpha=None, gemm1_clamp_limit=None), **(config or {})})
    info = types.SimpleNamespace(**{**dict(w13_weight=w13, w2_weight=w2, b13=None, b2=None, use_fp8_w8a8=False,
                                           w13_scale=None, block_shape=None), **quant})
    topk = types.SimpleNamespace(topk_weights=weights, topk_ids=ids, router_logits=None)
    core = engine.cores["moejit"](runner_config)
    assert core.runner_backend == "backend moejit"
    dispatched = types.SimpleNamespace(hidden_states=x, topk_output=topk)
    return core.run_from_dispatch(dispatched, info, runner_config).hidden_states, x


def test_sglang(cpu, engine, caplog):
    with caplog.at_level(logging.INFO, "moejit"):
        assert sglang_plugin.register() and sglang_plugin.register()
    assert "--moe-runner-backend moejit is registered" in caplog.text and engine.choices == ["moejit"]
    problem = Problem(CONFIG, 6)
    assert close(sglang_call(engine, problem)[0], problem)
    assert close(sglang_call(engine, problem, {"routed_scaling_factor": 2.5})[0], problem, 2.5)
    out, x = sglang_call(engine, Problem(CONFIG, 6), {"inplace": True})
    assert out is x and close(out, Problem(CONFIG, 6))
    problem.ids[2] = -1  # another rank's
    assert close(sglang_call(engine, problem)[0], problem)


def test_sglang_layers(cpu, engine):
    sglang_plugin.register()
    config = CONFIG.replace(activation="swiglu_oai", interleaved=True, bias=True)
    problem = Problem(config, 5)
    got = sglang_call(engine, problem, {"gemm1_alpha": 1.702, "gemm1_clamp_limit": 7.0}, b13=torch.from_numpy(problem.b13),
                      b2=torch.from_numpy(problem.b2))
    assert close(got[0], problem)
    problem = Problem(CONFIG.replace(activation="relu2", gated=False), 5)
    assert close(sglang_call(engine, problem, {"activation": "relu2", "is_gated": False})[0], problem)


def test_sglang_refuses(cpu, engine):
    sglang_plugin.register()
    problem = Problem(CONFIG, 3)
    for config, quant, word in (({}, {"use_fp8_w8a8": True}, "use_fp8_w8a8"), ({}, {"w13_scale": torch.ones(8)}, "w13_scale"),
                                ({"activation": "situ"}, {}, "situ"), ({"gemm1_clamp_limit": 10.0}, {}, "activation"), ({"no_combine": True}, {}, "no_combine")):
        with pytest.raises(moejit.Unsupported, match=word):
            sglang_call(engine, problem, config, **quant)


def test_sglang_absent_old_or_off(monkeypatch, engine, caplog):
    monkeypatch.setenv("MOEJIT_SGLANG", "0")
    assert not sglang_plugin.register() and not engine.cores
    monkeypatch.delenv("MOEJIT_SGLANG")
    del sys.modules["sglang.srt.layers.moe.moe_runner.runner"].register_moe_runner_core
    assert not sglang_plugin.register()
    assert "no public registry" in caplog.text
    module(monkeypatch, "sglang.srt.layers.moe.moe_runner.runner", register_moe_runner_core=lambda *_: 1 / 0)
    assert not sglang_plugin.register() and "ZeroDivisionError" in caplog.text


# ---- vLLM ----


class Activation(enum.Enum):
    SILU = "silu"
    SWIGLUOAI = "swigluoai"
    SWIGLUSTEP = "swiglustep"


class UnquantizedFusedMoEMethod:
    def process_weights_after_loading(self, layer):
        layer.relaid = True

    def apply(self, layer, x, topk_weights, topk_ids, shared_experts_input=None):
        return "vLLM's own"


@pytest.fixture
def vllm(monkeypatch):
    """A stub of vLLM: classes by name, swapped at instantiation."""
    swapped = {}

    class CustomOp:
        @classmethod
        def register_oot(cls, op, name):
            assert name not in swapped
            swapped[name] = op

    module(monkeypatch, "vllm", __version__="0.20.1rc1+cu130")
    module(monkeypatch, "vllm.model_executor.custom_op", CustomOp=CustomOp)
    module(monkeypatch, "vllm.model_executor.layers.fused_moe.layer", UnquantizedFusedMoEMethod=UnquantizedFusedMoEMethod)
    monkeypatch.setattr(vllm_plugin, "_registered", False)
    monkeypatch.setenv("MOEJIT_VLLM", "1")
    return swapped


def layer_of(problem, **fields):
    _, w13, w2, _, _ = tensors(problem)
    return types.SimpleNamespace(**{**dict(w13_weight=w13, w2_weight=w2, activation=Activation.SILU, expert_map=None,
                                           apply_router_weight_on_input=False,
                                           global_num_experts=problem.config.num_experts), **fields})


def test_vllm(cpu, vllm, caplog):
    with caplog.at_level(logging.INFO, "moejit"):
        assert vllm_plugin.register() and vllm_plugin.register()
    method = vllm["UnquantizedFusedMoEMethod"]()
    problem = Problem(CONFIG, 6)
    layer = layer_of(problem)
    method.process_weights_after_loading(layer)
    x, _, _, weights, ids = tensors(problem)
    assert close(method.apply(layer, x, weights, ids), problem) and not hasattr(layer, "relaid")


def test_vllm_expert_map(cpu, vllm):
    vllm_plugin.register()
    method = vllm["UnquantizedFusedMoEMethod"]()
    problem = Problem(CONFIG, 6)
    x, w13, w2, weights, ids = tensors(problem)
    total = 0
    for rank in range(2):
        expert_map = torch.full((8,), -1, dtype=torch.int32)
        expert_map[rank * 4:rank * 4 + 4] = torch.arange(4, dtype=torch.int32)
        layer = layer_of(problem, w13_weight=w13[rank * 4:rank * 4 + 4].clone(), expert_map=expert_map,
                         w2_weight=w2[rank * 4:rank * 4 + 4].clone())
        method.process_weights_after_loading(layer)
        total = total + method.apply(layer, x, weights, ids)
    assert close(total, problem)


def test_vllm_layers_that_are_not_ours(cpu, vllm, caplog):
    vllm_plugin.register()
    method = vllm["UnquantizedFusedMoEMethod"]()
    problem = Problem(CONFIG, 2)
    x, w13, _, weights, ids = tensors(problem)
    for fields, word in (({"activation": Activation.SWIGLUSTEP}, "swiglustep"),
                         ({"w13_weight": w13.flatten()}, "three dimensions"), ({"enable_eplb": True}, "balancing"),
                         ({"w13_weight": w13[:, :48]}, "not contiguous")):
        vllm_plugin._said.clear()
        layer = layer_of(problem, **fields)
        method.process_weights_after_loading(layer)
        assert layer.relaid and method.apply(layer, x, weights, ids) == "vLLM's own"
        assert word in caplog.text


def test_vllm_off_or_of_another_version(monkeypatch, vllm, caplog):
    monkeypatch.setenv("MOEJIT_VLLM", "0")
    assert not vllm_plugin.register() and not vllm
    monkeypatch.setenv("MOEJIT_VLLM", "1")
    for version in ("0.11.2", "1.0", "dev"):
        module(monkeypatch, "vllm", __version__=version)
        assert not vllm_plugin.register() and f"version {version}" in caplog.text
    module(monkeypatch, "vllm", __version__="0.20.0")

    class Other(UnquantizedFusedMoEMethod):
        def apply(self, layer, router, x):
            pass

    module(monkeypatch, "vllm.model_executor.layers.fused_moe.layer", UnquantizedFusedMoEMethod=Other)
    assert not vllm_plugin.register() and "takes (layer, router, x" in caplog.text


def test_versions():
    assert vllm_plugin.version_of("0.19.1rc2+cu130") == (0, 19) and vllm_plugin.version_of("x") == (0, 0)
