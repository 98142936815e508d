"""Real classes of transformers with random weights: moejit gives what the eager loop gives."""

import logging
import types

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5.0")

import moejit.integrations.transformers as adapter  # noqa: E402
from transformers.integrations import moe  # noqa: E402

COMMON = dict(vocab_size=128, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=128, head_dim=16, pad_token_id=0, bos_token_id=1, eos_token_id=2)
MODELS = {
    "Mixtral": dict(intermediate_size=48, num_local_experts=8, num_experts_per_tok=2),
    "Qwen2Moe": dict(intermediate_size=96, moe_intermediate_size=48, shared_expert_intermediate_size=64, num_experts=8,
                     num_experts_per_tok=2),
    "Qwen3Moe": dict(intermediate_size=96, moe_intermediate_size=48, num_experts=8, num_experts_per_tok=2),
    "DeepseekV3": dict(intermediate_size=96, moe_intermediate_size=48, n_routed_experts=8, num_experts_per_tok=2,
                       n_group=2, topk_group=1, first_k_dense_replace=1, kv_lora_rank=16, q_lora_rank=16,
                       qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=16, num_key_value_heads=4, head_dim=8),
    "GptOss": dict(intermediate_size=48, num_local_experts=8, num_experts_per_tok=2, sliding_window=16),
    "Olmoe": dict(intermediate_size=48, num_experts=8, num_experts_per_tok=2),
    "Glm4Moe": dict(intermediate_size=96, moe_intermediate_size=48, n_routed_experts=8, num_experts_per_tok=2,
                    n_group=1, topk_group=1, first_k_dense_replace=1),
    "MiniMaxM2": dict(intermediate_size=48, num_local_experts=8, num_experts_per_tok=2),
    "NemotronH": None,  # experts alone, below
}
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def model_of(name, dtype):
    config = getattr(transformers, f"{name}Config")(**{**COMMON, **MODELS[name]})
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).to(dtype).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    for module in adapter.experts_modules(model).values():
        for tensor in module.parameters():
            torch.nn.init.normal_(tensor, std=0.1)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("name", [name for name, fields in MODELS.items() if fields])
def test_models(cpu, name, dtype):
    model = model_of(name, dtype)
    modules = adapter.experts_modules(model)
    assert modules and not any(adapter.report(model).values()), adapter.report(model)
    tokens = torch.randint(3, 128, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        model.set_experts_implementation("eager")
        want = model(tokens).logits
        layers = {}
        hooks = [module.register_forward_hook(lambda m, i, o, n=n: layers.update({n: (i, o)}))
                 for n, module in modules.items()]
        model(tokens)
        for hook in hooks:
            hook.remove()
        model.set_experts_implementation("moejit")
        for n, module in modules.items():  # each layer on the inputs that the eager model gave it
            inputs, expected = layers[n]
            got = module(*inputs)
            size = expected.float().norm()
            assert (got.float() - expected.float()).norm() <= TOLERANCE[dtype] * size, n
        if dtype is torch.float32:
            got = model(tokens).logits
            assert torch.allclose(got, want, atol=2e-3 * float(want.abs().max()))
            text = model.generate(tokens, max_new_tokens=6, min_new_tokens=6, do_sample=False)
            model.set_experts_implementation("eager")
            assert torch.equal(text, model.generate(tokens, max_new_tokens=6, min_new_tokens=6, do_sample=False))


def experts(name="Mixtral", module=None, **fields):
    """One experts module of transformers, alone."""
    module = module or f"transformers.models.{name.lower()}.modeling_{name.lower()}"
    cls = getattr(__import__(module, fromlist=["x"]), f"{name}Experts")
    config = getattr(transformers, f"{name}Config")(**{**COMMON, **(MODELS[name] or {}), **fields})
    config._experts_implementation = "moejit"
    torch.manual_seed(0)
    made = cls(config)
    for tensor in made.parameters():
        torch.nn.init.normal_(tensor, std=0.1)
    return made.requires_grad_(False)


def call(module, implementation, x, ids, weights):
    module.config._experts_implementation = implementation
    return module(x, ids, weights)


def inputs(tokens=7, top_k=2, experts=8, hidden=64):
    generator = torch.Generator().manual_seed(2)
    ids = torch.stack([torch.randperm(experts, generator=generator)[:top_k] for _ in range(tokens)])
    return torch.randn(tokens, hidden, generator=generator), ids, torch.rand(tokens, top_k, generator=generator)


@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu2", "swish"])
def test_activations(cpu, act):
    module = experts(hidden_act=act)
    assert adapter.recognise(module)[0] is not None
    x, ids, weights = inputs()
    assert torch.allclose(call(module, "moejit", x, ids, weights), call(module, "eager", x, ids, weights), atol=1e-4,
                          rtol=1e-4)


def test_layer_without_a_gate(cpu):
    nemotron = pytest.importorskip("transformers.models.nemotron_h.modeling_nemotron_h")
    config = types.SimpleNamespace(n_routed_experts=8, num_local_experts=8, hidden_size=64, moe_intermediate_size=48,
                                   moe_latent_size=None, mlp_hidden_act="relu2", hidden_act="relu2", num_experts=8,
                                   _experts_implementation="moejit")
    module = nemotron.NemotronHExperts(config).requires_grad_(False)
    for tensor in module.parameters():
        torch.nn.init.normal_(tensor, std=0.1)
    layer, reason = adapter.recognise(module)
    assert layer is not None and '"gated": false' in layer, reason
    x, ids, weights = inputs()
    assert torch.allclose(call(module, "moejit", x, ids, weights), call(module, "eager", x, ids, weights), atol=1e-4)


def test_full_size_layer(cpu):
    """One layer of Qwen3-30B-A3B, 1.2 GB in bf16."""
    module = experts("Qwen3Moe", "transformers.models.qwen3_moe.modeling_qwen3_moe", hidden_size=2048,
                     moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8).bfloat16()
    x, ids, weights = inputs(5, 8, 128, 2048)
    with torch.inference_mode():
        got = call(module, "moejit", x.bfloat16(), ids, weights.bfloat16())
        want = call(module, "eager", x.bfloat16(), ids, weights.bfloat16())
    assert (got.float() - want.float()).norm() < 1e-2 * want.float().norm()


def test_sentinels_of_expert_parallelism_add_nothing(cpu):
    module = experts()
    x, ids, weights = inputs()
    x[2] = float("nan")  # a row that is nobody's must not reach the sum
    ids[2] = 8
    ids[4, 1] = 8
    got = call(module, "moejit", x, ids, weights)
    assert torch.equal(got[2], torch.zeros(64))
    weights[4, 1], weights[2] = 0, 0
    x[2], ids[2], ids[4, 1] = 0, 0, 0
    assert torch.allclose(got, call(module, "eager", x, ids, weights), atol=1e-4)


def test_wide_ids_add_nothing(cpu):
    module = experts()
    x, ids, weights = inputs()
    ids[2, 1], ids[3, 0] = 1 << 32, -(1 << 32)
    got = call(module, "moejit", x, ids, weights)
    ids[2, 1], ids[3, 0], weights[2, 1], weights[3, 0] = 0, 0, 0, 0
    assert torch.allclose(got, call(module, "eager", x, ids, weights), atol=1e-4)


def refused(module, caplog, word, x, ids, weights):
    adapter._said.clear()
    module.__dict__.pop("_moejit_layer", None)
    with caplog.at_level(logging.WARNING, "moejit"):
        got = call(module, "moejit", x, ids, weights)
    assert word in caplog.text, caplog.text
    return got


def test_closed_world(cpu, caplog):
    x, ids, weights = inputs()
    want = call(experts(), "eager", x, ids, weights)

    class Odd(type(experts())):
        def _apply_gate(self, gate_up):
            gate, up = gate_up.chunk(2, dim=-1)
            return torch.tanh(gate) * up

    for change, word in (
            (lambda m: setattr(m, "act_fn", torch.nn.Tanh()), "Tanh is not known"),
            (lambda m: setattr(m, "has_post_expert_norm", True), "norm"),
            (lambda m: setattr(m, "is_concatenated", False), "interleaved"),
            (lambda m: setattr(m, "__class__", Odd), "Odd._apply_gate"),
            (lambda m: setattr(m, "gate_up_proj", torch.nn.Parameter(
                m.gate_up_proj.transpose(1, 2).contiguous().transpose(1, 2), requires_grad=False)), "not contiguous"),
    ):
        module = experts()
        change(module)
        got = refused(module, caplog, word, x, ids, weights)
        assert got.shape == want.shape
        caplog.clear()


def test_sizes_that_no_kernel_takes(cpu, caplog):
    """Rows of 100 bf16 are no multiple of 16 bytes: the framework's own path, and the log says why."""
    module = experts(intermediate_size=100).bfloat16()
    x, ids, weights = inputs()
    got = refused(module, caplog, "intermediate_size = 100: must be a multiple of 8", x.bfloat16(), ids, weights)
    assert torch.allclose(got, call(module, "eager", x.bfloat16(), ids, weights), atol=3e-2, rtol=3e-2)
    assert adapter.recognise(experts(intermediate_size=100))[0] is not None  # of f32 they are one


def test_flags_of_older_versions(caplog):
    """The first releases had other flags; stand-ins that carry exactly those attributes are refused, not guessed."""
    weight = torch.zeros(8, 96, 64)
    first = types.SimpleNamespace(experts_are_transposed=False, num_experts=8, gate_up_proj=weight,
                                  down_proj=torch.zeros(8, 64, 48), act_fn=torch.nn.SiLU())
    assert adapter.recognise(first) == (None, "it has no flag has_gate")
    second = types.SimpleNamespace(**{**vars(first), "is_transposed": False, "has_bias": False})
    assert adapter.recognise(second)[0] is None
    fp8 = experts()
    fp8.gate_up_proj_scale_inv = torch.ones(8)
    assert "quantised" in adapter.recognise(fp8)[1]


def test_gradients_are_the_frameworks(cpu, caplog):
    module = experts().requires_grad_(True)
    x, ids, weights = inputs()
    refused(module, caplog, "gradient", x, ids, weights).sum().backward()
    assert module.gate_up_proj.grad is not None
    with torch.no_grad():
        assert torch.allclose(call(module, "moejit", x, ids, weights), call(module, "eager", x, ids, weights), atol=1e-4)


def test_gradients_of_some_parameters_are_the_frameworks(cpu, caplog):
    """Whichever one is trained, alone."""
    x, ids, weights = inputs()
    for name in ("Mixtral", "GptOss"):
        module = experts(name, f"transformers.models.{name.lower().replace('oss', '_oss')}.modeling_"
                               f"{name.lower().replace('oss', '_oss')}")
        call(module, "moejit", x, ids, weights)
        for which, parameter in module.named_parameters():
            parameter.requires_grad_(True)
            call(module, "moejit", x, ids, weights).sum().backward()
            assert parameter.grad is not None, which
            parameter.requires_grad_(False)
        for tensor in (x, weights):
            tensor.requires_grad_(True)
            call(module, "moejit", x, ids, weights).sum().backward()
            assert tensor.grad is not None
            tensor.requires_grad_(False)


def test_modules_that_change_are_seen(cpu, caplog):
    """What was recognised at the first call must not be believed for ever."""
    x, ids, weights = inputs()

    def relaid(module, name):
        tensor = getattr(module, name)
        setattr(module, name, torch.nn.Parameter(tensor.transpose(1, 2).contiguous().transpose(1, 2),
                                                 requires_grad=False))

    def relaid_in_place(module, name):
        parameter = getattr(module, name)
        parameter.data = parameter.data.transpose(1, 2).contiguous().transpose(1, 2)

    def gate(gate_up):
        first, second = gate_up.chunk(2, dim=-1)
        return torch.tanh(first) * second

    oss = ("GptOss", "transformers.models.gpt_oss.modeling_gpt_oss")
    for made, change, taken in (
            (("Mixtral",), lambda m: setattr(m, "act_fn", torch.nn.ReLU()), False),
            (("Mixtral",), lambda m: setattr(m, "act_fn", torch.nn.GELU()), True),
            (("Mixtral",), lambda m: relaid(m, "gate_up_proj"), False),
            (("Mixtral",), lambda m: relaid_in_place(m, "down_proj"), False),
            (("Mixtral",), lambda m: setattr(m, "_apply_gate", gate), False),
            (oss, lambda m: setattr(m, "limit", 0.2), True),
            (oss, lambda m: setattr(m, "alpha", 0.7), True),
            (oss, lambda m: relaid(m, "gate_up_proj"), False),
    ):
        module = experts(*made)
        first = call(module, "moejit", x, ids, weights)
        assert torch.equal(first, call(module, "moejit", x, ids, weights))
        change(module)
        adapter._said.clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "moejit"):
            got = call(module, "moejit", x, ids, weights)
        # A gate of the instance is no business of the eager loop, which has the class's formula written out.
        other = "grouped_mm" if "_apply_gate" in module.__dict__ else "eager"
        assert torch.allclose(got, call(module, other, x, ids, weights), atol=1e-4)
        assert ("own path" in caplog.text) is not taken, caplog.text


def test_recognition_is_kept(cpu, monkeypatch):
    x, ids, weights = inputs()
    for module in (experts(), experts("GptOss", "transformers.models.gpt_oss.modeling_gpt_oss")):
        call(module, "moejit", x, ids, weights)
        with monkeypatch.context() as patch:
            patch.setattr(adapter, "recognise", None)
            call(module, "moejit", x, ids, weights)


def test_calls_that_are_refused(cpu):
    module = experts()
    x, ids, weights = inputs()
    assert adapter._refusal(module, x.bfloat16(), ids, weights).startswith("hidden states are")
    assert "more than the 8 experts" in adapter._refusal(module, x, ids.repeat(1, 5), weights.repeat(1, 5))
    assert "top_k_weights has shape" in adapter._refusal(module, x, ids, torch.rand(7, 8))


def test_compile(cpu):
    module = experts()
    module.config._experts_implementation = "moejit"
    x, ids, weights = inputs()
    compiled = torch.compile(lambda *a: adapter.experts_forward(module, *a) * 2, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x, ids, weights), adapter.experts_forward(module, x, ids, weights) * 2)


def test_registration():
    adapter.register()  # again is fine
    assert moe.ALL_EXPERTS_FUNCTIONS["moejit"] is adapter.experts_forward
    for registry in adapter._quantised_registries():
        assert registry["moejit"] is not adapter.experts_forward and registry["moejit"].moejit
    kept = type(moe.ALL_EXPERTS_FUNCTIONS)._global_mapping["moejit"]
    type(moe.ALL_EXPERTS_FUNCTIONS)._global_mapping["moejit"] = print
    try:
        with pytest.raises(RuntimeError, match="registered already"):
            adapter.register()
    finally:
        type(moe.ALL_EXPERTS_FUNCTIONS)._global_mapping["moejit"] = kept


def test_enable(cpu, caplog):
    model = model_of("Mixtral", torch.float32)
    with caplog.at_level(logging.INFO, "moejit"):
        assert adapter.enable(model) == 2
    assert "2 of 2 experts modules use moejit" in caplog.text
    assert model.config._experts_implementation == "moejit"
    with caplog.at_level(logging.WARNING, "moejit"):
        assert adapter.enable(types.SimpleNamespace(config=model.config, named_modules=lambda: [])) == 0
    assert "no experts module" in caplog.text
