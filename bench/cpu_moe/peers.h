// The peers that this build has.
#pragma once

#include "bench/cpu_moe/peer.h"
#include "moejit/status.h"

namespace moejit_bench {

struct PeerKind {
  const char* key;    // as --peers and the columns name it
  const char* title;  // for people
  // Keeps w13 and w2, or copies of them in its own layout.
  moejit::Result<std::unique_ptr<Peer>> (*make)(const moejit::MoeConfig& config, const void* w13,
                                                const void* w2, int num_threads);
};
const std::vector<PeerKind>& peer_kinds();

}  // namespace moejit_bench
