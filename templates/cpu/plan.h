// The work list: (token, expert) pairs sorted by expert, cut into units of at most
// kSched_token_block rows of one expert. Built by one worker in O(T*K + E).
#pragma once
#include "../abi.h"
#include "simd.h"

namespace moejit_cpu {
using moejit_abi::MoeArgs;

constexpr int kTotalExperts = kNumExperts + kNumSharedExperts;

// Rows [first, first + count) of the sorted pairs, all of one expert.
struct Unit {
  i64 first;
  int count;
  int expert;
};

// How many tasks were taken from one worker's range; a cache line of its own.
struct alignas(64) Counter {
  i64 taken;
};

struct Plan {
  i64 num_units;
  i64 x_stride;  // elements
  const XElem* x;
  Counter gate_up[kMaxWorkers], down[kMaxWorkers];
  i64 expert_begin[kTotalExperts + 1];
};

// Tasks [0, total) for one worker: first those of its own range, in order, so that each worker
// reads memory of its own in one stream; then those that are left of the others' ranges.
class TaskQueue {
 public:
  TaskQueue(Counter* counters, i64 total, int worker, int workers)
      : counters_(counters),
        total_(total),
        range_(worker),
        workers_(workers < (int)kMaxWorkers ? workers : (int)kMaxWorkers),
        left_(workers_) {}
  // The next task, or -1.
  i64 take() {
    for (; left_ > 0; --left_, range_ = range_ + 1 < workers_ ? range_ + 1 : 0) {
      const i64 task =
          begin(range_) + __atomic_fetch_add(&counters_[range_].taken, 1, __ATOMIC_RELAXED);
      if (task < begin(range_ + 1)) return task;
    }
    return -1;
  }
  // What take() would give now, most likely, or -1: a hint for prefetching.
  i64 peek() const {
    if (left_ == 0) return -1;
    const i64 task = begin(range_) + __atomic_load_n(&counters_[range_].taken, __ATOMIC_RELAXED);
    return task < begin(range_ + 1) ? task : -1;
  }

 private:
  i64 begin(int range) const { return total_ * range / workers_; }

  Counter* counters_;
  i64 total_;
  int range_, workers_, left_;
};

struct Workspace {
  Plan* plan;
  Unit* units;
  int* tokens;     // [pairs] token of each sorted pair
  float* weights;  // [pairs] its routing weight
  XElem* x;        // [T, padded H]: x as the kernels read it, where it is not used in place
  XElem* h;        // [pairs, padded I]
  float* acc;      // [workers, T, kSched_column_block]
  WElem* scratch;  // [workers, ...] rows unpacked from a transposed layout
  XElem* panels;   // [workers, 2, kPanelElements]
};

MOEJIT_INLINE void* region(const MoeArgs* args, int index) {
  return (char*)args->workspace + workspace_offset(index, args->num_tokens);
}

MOEJIT_INLINE Workspace workspace_of(const MoeArgs* args) {
  return {(Plan*)region(args, kRegion_plan),   (Unit*)region(args, kRegion_units),
          (int*)region(args, kRegion_tokens),  (float*)region(args, kRegion_weights),
          (XElem*)region(args, kRegion_x),     (XElem*)region(args, kRegion_h),
          (float*)region(args, kRegion_acc),   (WElem*)region(args, kRegion_scratch),
          (XElem*)region(args, kRegion_panels)};
}

// x can be used where it lies if its rows can be read a step at a time as they are. For a few
// tokens the copy is not worth it even where the rows' stride makes them collide in the L1.
constexpr bool kSameElement = sizeof(XElem) == sizeof(WElem);
constexpr bool kAliasingStride = (i64)kHiddenSize * sizeof(WElem) % 1024 == 0;
constexpr i64 kXStride = padded_stride(kHiddenSize);
constexpr i64 kHStride = padded_stride(kIntermediateSize);
MOEJIT_INLINE bool x_in_place(i64 tokens) {
  return kSameElement && (!kAliasingStride || tokens <= kTileTokens);
}

static void make_plan(const MoeArgs* args, const Workspace& ws) {
  const i64 tokens = args->num_tokens, listed = tokens * kTopK;
  const int* ids = args->topk_ids;
  const float* weights = args->topk_weights;
  Plan* plan = ws.plan;
  for (int w = 0; w < kMaxWorkers; ++w) plan->gate_up[w].taken = plan->down[w].taken = 0;
  plan->x = x_in_place(tokens) ? (const XElem*)args->x : ws.x;
  plan->x_stride = x_in_place(tokens) ? (i64)kHiddenSize : kXStride;

  // Counting sort, stable: expert_begin[e] is first the count, then the start, of expert e.
  i64* begin = plan->expert_begin;
  for (int e = 0; e <= kTotalExperts; ++e) begin[e] = 0;
  for (i64 p = 0; p < listed; ++p) {
    if ((u32)ids[p] < (u32)kNumExperts) ++begin[ids[p]];
  }
  for (int e = kNumExperts; e < kTotalExperts; ++e) begin[e] = tokens;
  i64 units = 0, sum = 0;
  for (int e = 0; e < kTotalExperts; ++e) {
    const i64 count = begin[e];
    const i64 blocks = (count + kSched_token_block - 1) / kSched_token_block;
    for (i64 b = 0; b < blocks; ++b) {
      const i64 from = count * b / blocks, to = count * (b + 1) / blocks;
      ws.units[units++] = {sum + from, (int)(to - from), e};
    }
    begin[e] = sum;
    sum += count;
  }
  plan->num_units = units;
  for (i64 p = 0; p < listed; ++p) {
    const int e = ids[p];
    if ((u32)e >= (u32)kNumExperts) continue;
    const i64 place = begin[e]++;
    ws.tokens[place] = (int)(p / kTopK);
    ws.weights[place] = weights[p];
  }
  for (int e = kNumExperts; e < kTotalExperts; ++e) {
    for (i64 t = 0; t < tokens; ++t) {
      ws.tokens[begin[e] + t] = (int)t;
      ws.weights[begin[e] + t] = 1.0f;
    }
  }
}

// Worker `worker`'s share of x, as the kernels read it.
static void convert_x(const MoeArgs* args, const Workspace& ws, int worker, int workers) {
  const i64 tokens = args->num_tokens;
  if (x_in_place(tokens)) return;
  const WElem* x = (const WElem*)args->x;
  for (i64 t = tokens * worker / workers; t < tokens * (worker + 1) / workers; ++t) {
    const WElem* from = x + t * kHiddenSize;
    XElem* to = ws.x + t * kXStride;
    int k = 0;
    for (; k + kLanes <= kHiddenSize; k += kLanes) {
      if constexpr (kSameElement) {
        typedef XElem V __attribute__((vector_size(sizeof(XElem) * kLanes)));
        store<V>(to + k, load<V>(from + k));
      } else {
        store_x<kLanes>(to + k, E::to_f32<kLanes>(from + k));
      }
    }
    for (; k < kHiddenSize; k += 4) store_x<4>(to + k, E::to_f32<4>(from + k));
  }
}

}  // namespace moejit_cpu
