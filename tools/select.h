// The selectors that verbs share: which layer, which device, which token counts.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moejit/moejit.h"
#include "tools/command.h"

namespace moejit::tools {

// --model NAME | --model DIRECTORY-or-config.json | --config FILE | --experts ... ; with --tp and
// single fields on top. Failures are kInvalidArgument whatever their cause: the call is wrong.
class LayerSelector {
 public:
  void declare(OptionSet& options);
  // And --shared N, for a verb that takes one layer (tune has a list).
  void declare_one(OptionSet& options);
  Result<MoeConfig> resolve() const;
  // Several layers where --model names several, with commas, or --config holds an array.
  Result<std::vector<MoeConfig>> resolve_all() const;

 private:
  Result<MoeConfig> base(bool* complete) const;
  Result<MoeConfig> finish(MoeConfig config) const;  // single fields and --tp on top

  std::string model_, config_, dtype_, activation_;
  std::optional<int32_t> experts_, top_k_, hidden_, intermediate_, tp_, shared_;
  bool packed_ = false;
};

struct DeviceSelector {
  std::string device = "auto";
  std::string cache_dir;
  int32_t threads = 0;

  void declare(OptionSet& options);
  // The device; a bare architecture ("sm_90a", "gfx942", "x86-64-v4") is one to compile for.
  std::string name() const;
  // Ok where the device exists and can run the layer; else kUnavailable or kUnsupported.
  Status check(const MoeConfig& config) const;
};

// "E128 K8 H2048 I768 bf16": a layer in a line of progress.
std::string short_name(const MoeConfig& config);

}  // namespace moejit::tools
