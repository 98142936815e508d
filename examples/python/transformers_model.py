#!/usr/bin/env python3
"""A transformers model that generates with moejit's kernels, beside its own. Needs moejit, torch and transformers 5.

Without an argument: a small Qwen3-MoE with random weights, so that nothing is downloaded. With one: a model's directory.
"""

import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

import moejit.integrations.transformers as moejit_transformers  # registers experts_implementation="moejit"

device = "cuda" if torch.cuda.is_available() else "cpu"
if len(sys.argv) > 1:
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16, experts_implementation="moejit")
    prompt = AutoTokenizer.from_pretrained(sys.argv[1])("The three laws of", return_tensors="pt").input_ids
else:
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(
        vocab_size=1000, hidden_size=256, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4, head_dim=32,
        num_experts=32, num_experts_per_tok=4, moe_intermediate_size=128, intermediate_size=512)).to(torch.bfloat16)
    prompt = torch.arange(10, 42)[None]
model = model.to(device).eval()
prompt = prompt.to(device)

for name, why in moejit_transformers.report(model).items():
    print(f"{name}: {'moejit' if not why else 'its own path, as ' + why}")


def generate(implementation):
    model.set_experts_implementation(implementation)
    with torch.inference_mode():
        model.generate(prompt, max_new_tokens=4, do_sample=False)  # compiles what is needed
        begin = time.perf_counter()
        text = model.generate(prompt, max_new_tokens=32, min_new_tokens=32, do_sample=False)
        return text, (time.perf_counter() - begin) / 32


for implementation in ("eager", "grouped_mm", "moejit"):
    text, seconds = generate(implementation)
    print(f"{implementation:10}: {seconds * 1e3:.2f} ms a token, {text[0, -5:].tolist()}")
