#include "generator/emit.h"

#include <charconv>

namespace moejit::internal {
namespace {

// Shortest text that reads back as the same double, always with a point or exponent.
std::string literal(double value) {
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value);
  std::string text(buffer, end.ptr);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

class Constants {
 public:
  void add(const char* name, int64_t value) { line("int", name, std::to_string(value)); }
  void add(const char* name, bool value) { line("bool", name, value ? "true" : "false"); }
  void add(const char* name, double value) { line("double", name, literal(value)); }
  std::string text() const { return text_; }

 private:
  void line(const char* type, const std::string& name, const std::string& value) {
    text_ += std::string("constexpr ") + type + " " + name + " = " + value + ";\n";
  }
  std::string text_;
};

}  // namespace

std::string emit_constants(const MoeConfig& config, const Schedule& schedule) {
  Constants c;
  c.add("kNumExperts", int64_t{config.num_experts});
  c.add("kTopK", int64_t{config.top_k});
  c.add("kHiddenSize", int64_t{config.hidden_size});
  c.add("kIntermediateSize", int64_t{config.intermediate_size});
  c.add("kDType", static_cast<int64_t>(config.dtype));
  c.add("kActivation", static_cast<int64_t>(config.activation));
  c.add("kGated", config.gated);
  c.add("kBias", config.bias);
  c.add("kSwigluAlpha", config.swiglu_alpha);
  c.add("kSwigluLimit", config.swiglu_limit);
  c.add("kTransposed", config.transposed);
  c.add("kInterleaved", config.interleaved);
  c.add("kUpFirst", config.up_first);
  c.add("kNumSharedExperts", int64_t{config.num_shared_experts});
  c.add("kWeightOnInput", config.weight_on_input);
  c.add("kScoring", static_cast<int64_t>(config.router.scoring));
  c.add("kRouterOrder", static_cast<int64_t>(config.router.order));
  c.add("kHasCorrectionBias", config.router.correction_bias);
  c.add("kNGroup", int64_t{config.router.n_group});
  c.add("kTopkGroup", int64_t{config.router.topk_group});
  c.add("kRenormalize", config.router.renormalize);
  c.add("kScalingFactor", config.router.scaling_factor);
  for (const auto& [name, value] : schedule.params) {
    c.add(("kSched_" + name).c_str(), int64_t{value});
  }
  return "#define MOEJIT_GENERATED 1\nnamespace moejit_cfg {\n" + c.text() +
         "}  // namespace moejit_cfg\n";
}

std::string emit_workspace(const std::vector<WorkspaceRegion>& regions) {
  // Both sides compute offsets from this table: see workspace_offset() in kernel_source.h.
  std::string index, body;
  for (size_t i = 0; i < regions.size(); ++i) {
    const WorkspaceRegion& region = regions[i];
    index += "constexpr int kRegion_" + region.name + " = " + std::to_string(i) + ";\n";
    body += "  if (index > " + std::to_string(i) + ") offset += (" +
            std::to_string(region.fixed_bytes) + "LL + tokens * " +
            std::to_string(region.bytes_per_token) + "LL + 255) / 256 * 256;\n";
  }
  return "#ifndef MOEJIT_DEVICE_FN\n#if defined(__CUDACC__) || defined(__HIP__)\n"
         "#define MOEJIT_DEVICE_FN __device__ __forceinline__\n#else\n"
         "#define MOEJIT_DEVICE_FN static inline __attribute__((always_inline))\n#endif\n#endif\n"
         "namespace moejit_cfg {\n" +
         index + "constexpr int kNumRegions = " + std::to_string(regions.size()) +
         ";\nMOEJIT_DEVICE_FN long long workspace_offset(int index, long long tokens) {\n"
         "  long long offset = 0;\n" +
         body + "  (void)tokens;\n  return offset;\n}\n}  // namespace moejit_cfg\n";
}

std::string emit_cache(int64_t l2_bytes) {
  return "namespace moejit_cfg {\nconstexpr long long kL2Bytes = " + std::to_string(l2_bytes) +
         ";\n}  // namespace moejit_cfg\n";
}

std::string short_name(const MoeConfig& config) {
  std::string name = "e" + std::to_string(config.num_experts);
  if (config.num_shared_experts > 0) name += "s" + std::to_string(config.num_shared_experts);
  return name + "_k" + std::to_string(config.top_k) + "_h" + std::to_string(config.hidden_size) +
         "_i" + std::to_string(config.intermediate_size) + "_" + to_string(config.dtype) +
         (config.packed ? "_packed" : "");
}

}  // namespace moejit::internal
