// Stand-in for the constants that the generator writes in front of a kernel (generator/emit.h), so
// that every template opens and compiles alone in an editor. Generated text never contains it.
#pragma once

namespace moejit_cfg {

constexpr int kNumExperts = 128;
constexpr int kTopK = 8;
constexpr int kHiddenSize = 2048;
constexpr int kIntermediateSize = 768;
constexpr int kDType = 1;
constexpr int kActivation = 0;
constexpr bool kGated = true;
constexpr bool kBias = false;
constexpr double kSwigluAlpha = 1.702;
constexpr double kSwigluLimit = 7.0;
constexpr bool kTransposed = false;
constexpr bool kInterleaved = false;
constexpr bool kUpFirst = false;
constexpr int kNumSharedExperts = 0;
constexpr bool kWeightOnInput = false;
constexpr int kScoring = 0;
constexpr int kRouterOrder = 0;
constexpr bool kHasCorrectionBias = false;
constexpr int kNGroup = 1;
constexpr int kTopkGroup = 1;
constexpr bool kRenormalize = false;
constexpr double kScalingFactor = 1.0;

constexpr long long kL2Bytes = 48LL << 20;

constexpr int kSched_column_block = 128;
constexpr int kSched_stream_ahead = 4;
constexpr int kSched_row_block = 64;
constexpr int kSched_token_block = 60;

// Derived by the CPU family from config and target.
constexpr int kDownChunk = 768;
constexpr int kMaxWorkers = 2;
constexpr long long kScratchElements = 0;  // of one worker
constexpr long long kPanelElements = 16 * 2048;

constexpr int kRegion_plan = 0;
constexpr int kRegion_units = 1;
constexpr int kRegion_tokens = 2;
constexpr int kRegion_weights = 3;
constexpr int kRegion_x = 4;
constexpr int kRegion_h = 5;
constexpr int kRegion_acc = 6;
constexpr int kRegion_scratch = 7;
constexpr int kRegion_panels = 8;
static inline long long workspace_offset(int index, long long tokens) {
  return (long long)index * (tokens << 24);
}

}  // namespace moejit_cfg
