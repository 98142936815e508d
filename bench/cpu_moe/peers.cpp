#include "bench/cpu_moe/peers.h"

#include <dlfcn.h>

#include "bench/cpu_moe/peers_packed.h"
#ifdef MOEJIT_BENCH_ONEDNN
#include "bench/cpu_moe/peers_onednn.h"
#endif

namespace moejit_bench {

using moejit::MoeConfig;
using moejit::Result;
using moejit::Status;
using moejit::StatusCode;
using Made = Result<std::unique_ptr<Peer>>;

namespace {

#if defined(MOEJIT_BENCH_GGML) || defined(MOEJIT_BENCH_IK_LLAMA)
// RTLD_LOCAL keeps apart what both libraries export under one name. RTLD_NOW makes a module that
// got the other's library fail here: each calls functions that the other has not.
Made from_module(const char* path, bool repacked, const MoeConfig& config, const void* w13,
                 const void* w2, int num_threads) {
  using Make = Peer* (*)(const MoeConfig&, const void*, const void*, int, bool);
  void* module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  void* make = module != nullptr ? dlsym(module, "moejit_bench_make_peer") : nullptr;
  if (make == nullptr) return Status(StatusCode::kUnavailable, dlerror());
  return std::unique_ptr<Peer>(
      reinterpret_cast<Make>(make)(config, w13, w2, num_threads, repacked));
}
#endif

}  // namespace

const std::vector<PeerKind>& peer_kinds() {
  static const std::vector<PeerKind> kinds = {
      {"packed", "packed", PackedLayer::make},
#ifdef MOEJIT_BENCH_ONEDNN
      {"onednn", "oneDNN",
       [](const MoeConfig& config, const void* w13, const void* w2, int threads) -> Made {
         return std::unique_ptr<Peer>(std::make_unique<OneDnnLayer>(config, w13, w2, threads));
       }},
#endif
#ifdef MOEJIT_BENCH_GGML
      {"ggml", "ggml",
       [](const MoeConfig& config, const void* w13, const void* w2, int threads) {
         return from_module(MOEJIT_BENCH_GGML, false, config, w13, w2, threads);
       }},
#endif
#ifdef MOEJIT_BENCH_IK_LLAMA
      {"ik_llama", "ik_llama",
       [](const MoeConfig& config, const void* w13, const void* w2, int threads) {
         return from_module(MOEJIT_BENCH_IK_LLAMA, false, config, w13, w2, threads);
       }},
      {"ik_llama_repacked", "ik, repacked",
       [](const MoeConfig& config, const void* w13, const void* w2, int threads) {
         return from_module(MOEJIT_BENCH_IK_LLAMA, true, config, w13, w2, threads);
       }},
#endif
  };
  return kinds;
}

}  // namespace moejit_bench
