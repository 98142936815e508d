// What the simulator reports about a kernel.
#pragma once

#include <cstdint>
#include <string>

namespace moejit::internal::sim {

enum class FindingKind {
  kOutOfBounds,  // outside every tensor of the launch, or outside the block's shared memory
  kMisaligned,
  kReadOnlyWrite,  // a store to an input
  kUnwrittenRead,  // of shared memory, workspace or output that nothing wrote in this launch
  kRace,
  kProxyFence,  // generic writes, then an asynchronous read, no fence.proxy.async between them
  kDivergence,  // lanes of a warp or warpgroup meet at different calls, or one has exited
  kDeadlock,
  kBarrierMisuse,  // named barrier or mbarrier used against its rules
  kCopyMisuse,     // size, alignment or box of an asynchronous copy
  kMatrixMisuse,   // descriptor, accumulator or fence of a wgmma
  kStackOverflow,
  kUncovered,  // output elements that no thread wrote
  kTiming,     // early and late completion of asynchronous work gave different results
  kResources,  // more threads, shared memory or registers than the device has
};

const char* to_string(FindingKind kind);  // "race"

struct Finding {
  FindingKind kind = FindingKind::kRace;
  std::string text;  // several lines, for people
};

}  // namespace moejit::internal::sim
