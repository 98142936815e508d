// Entry `moe_plan` of families whose router is an entry of its own.
#pragma once

#include "kernels/plan.h"

MOEJIT_KERNEL(moe_plan, moe::kPlanThreads, 1)(moejit_abi::MoeArgs a) {
  using namespace moe;
  grid_launch_dependents();
  grid_wait();
  make_plan(a);
}
