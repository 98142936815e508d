// Entries of the CPU layer, in launch order. Every worker runs each; a barrier follows each.
#pragma once
#include "down.h"
#include "entries.h"
#include "gate_up.h"

// The workspace holds memory for kMaxWorkers workers; were there more, these do the work.
extern "C" __attribute__((visibility("default"))) void moe_gate_up(const moejit_abi::MoeArgs* args,
                                                                   int worker, int workers) {
  if (worker >= moejit_cfg::kMaxWorkers) return;
  const moejit_cpu::Workspace ws = moejit_cpu::workspace_of(args);
  moejit_cpu::gate_up(args, ws, ws.scratch + worker * moejit_cfg::kScratchElements,
                      moejit_cpu::buffers_of(ws, worker), worker, workers);
}

extern "C" __attribute__((visibility("default"))) void moe_down(const moejit_abi::MoeArgs* args,
                                                                int worker, int workers) {
  if (worker >= moejit_cfg::kMaxWorkers) return;
  const moejit_cpu::Workspace ws = moejit_cpu::workspace_of(args);
  moejit_cpu::down(
      args, ws,
      {ws.acc + worker * args->num_tokens * moejit_cfg::kSched_column_block,
       ws.scratch + worker * moejit_cfg::kScratchElements, moejit_cpu::buffers_of(ws, worker)},
      worker, workers);
}
