// Entries of the CPU layer where pack_weights has arranged its weights; otherwise as moe.h.
#pragma once
#include "entries.h"
#include "packed_down.h"
#include "packed_gate_up.h"

extern "C" __attribute__((visibility("default"))) void moe_gate_up(const moejit_abi::MoeArgs* args,
                                                                   int worker, int workers) {
  if (worker >= moejit_cfg::kMaxWorkers) return;
  moejit_cpu::packed_gate_up(args, moejit_cpu::workspace_of(args), worker, workers);
}

extern "C" __attribute__((visibility("default"))) void moe_down(const moejit_abi::MoeArgs* args,
                                                                int worker, int workers) {
  if (worker >= moejit_cfg::kMaxWorkers) return;
  const moejit_cpu::Workspace ws = moejit_cpu::workspace_of(args);
  moejit_cpu::packed_down(args, ws,
                          ws.acc + worker * args->num_tokens * moejit_cfg::kSched_column_block,
                          worker, workers);
}
