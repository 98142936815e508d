"""Problems as torch tensors."""

import torch

import moejit
from reference import TOLERANCE, error

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
CONFIG = moejit.MoeConfig(num_experts=8, top_k=2, hidden_size=64, intermediate_size=48)


def tensors(problem, ids=torch.int32):
    dtype = DTYPES[problem.config.dtype]
    x, w13, w2 = (torch.from_numpy(a).to(dtype) for a in (problem.x, problem.w13, problem.w2))
    return x, w13, w2, torch.from_numpy(problem.weights), torch.from_numpy(problem.ids).to(ids)


def close(got, problem):
    return error(got.float().numpy(), problem.expected()) < TOLERANCE[problem.config.dtype]
