// The entries that come before the products: the router, the plan, x as the kernels read it.
#pragma once
#include "plan.h"
#include "route.h"

extern "C" __attribute__((visibility("default"))) void moe_route(const moejit_abi::MoeArgs* args,
                                                                 int worker, int workers) {
  moejit_cpu::route(args, worker, workers);
}

extern "C" __attribute__((visibility("default"))) void moe_prepare(const moejit_abi::MoeArgs* args,
                                                                   int worker, int workers) {
  const moejit_cpu::Workspace ws = moejit_cpu::workspace_of(args);
  if (worker == 0) moejit_cpu::make_plan(args, ws);
  moejit_cpu::convert_x(args, ws, worker, workers);
}
