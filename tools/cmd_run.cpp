#include <sys/stat.h>

#include <algorithm>

#include "base/fs.h"
#include "base/safetensors.h"
#include "moejit/moejit.h"
#include "moejit/pack.h"
#include "tools/busy.h"
#include "tools/layer_inputs.h"
#include "tools/select.h"

namespace moejit::tools {
namespace {

// What a launch wrote, back on the host.
struct Outputs {
  std::vector<char> out;
  std::vector<int32_t> topk_ids;
  std::vector<float> topk_weights;
};

// Memory of one launch; everything lives until the results are copied back.
class Launch {
 public:
  Launch(const Kernel& kernel, const internal::Device& device, const LayerInputs& inputs)
      : kernel_(kernel), device_(device), inputs_(inputs) {}

  Result<Outputs> run() {
    const MoeConfig& config = kernel_.config();
    const int64_t tokens = inputs_.num_tokens;
    Outputs outputs;
    outputs.out.resize(static_cast<size_t>(tokens * config.hidden_size * size_of(config.dtype)));
    const auto slots = static_cast<size_t>(tokens * config.top_k);
    void* out = reserve(static_cast<int64_t>(outputs.out.size()));
    const size_t workspace_size = kernel_.workspace_size(tokens);
    void* workspace = reserve(static_cast<int64_t>(workspace_size));
    const void* x = view(inputs_.x);
    const void* w13 = view(inputs_.w13);
    const void* w2 = view(inputs_.w2);
    if (config.packed) MOEJIT_RETURN_IF_ERROR(pack(&w13, &w2));
    const void* b13 = config.bias ? view(inputs_.b13) : nullptr;
    const void* b2 = config.bias ? view(inputs_.b2) : nullptr;

    if (!inputs_.routed) {
      const auto* ids = static_cast<const int32_t*>(array(inputs_.topk_ids));
      const auto* weights = static_cast<const float*>(array(inputs_.topk_weights));
      MOEJIT_RETURN_IF_ERROR(status_);
      MOEJIT_RETURN_IF_ERROR(kernel_.launch({.num_tokens = tokens,
                                             .x = x,
                                             .w13 = w13,
                                             .w2 = w2,
                                             .b13 = b13,
                                             .b2 = b2,
                                             .topk_ids = ids,
                                             .topk_weights = weights,
                                             .out = out,
                                             .workspace = workspace,
                                             .workspace_size = workspace_size}));
      MOEJIT_RETURN_IF_ERROR(fetch(outputs.out.data(), out, outputs.out.size()));
      return outputs;
    }
    outputs.topk_ids.resize(slots);
    outputs.topk_weights.resize(slots);
    auto* ids = static_cast<int32_t*>(reserve(static_cast<int64_t>(slots * sizeof(int32_t))));
    auto* weights = static_cast<float*>(reserve(static_cast<int64_t>(slots * sizeof(float))));
    const void* logits = array(inputs_.router_logits);
    const auto* bias = static_cast<const float*>(
        config.router.correction_bias ? array(inputs_.correction_bias) : nullptr);
    MOEJIT_RETURN_IF_ERROR(status_);
    MOEJIT_RETURN_IF_ERROR(kernel_.launch_routed({.num_tokens = tokens,
                                                  .x = x,
                                                  .w13 = w13,
                                                  .w2 = w2,
                                                  .b13 = b13,
                                                  .b2 = b2,
                                                  .router_logits = logits,
                                                  .logits_dtype = DType::kF32,
                                                  .correction_bias = bias,
                                                  .topk_ids = ids,
                                                  .topk_weights = weights,
                                                  .out = out,
                                                  .workspace = workspace,
                                                  .workspace_size = workspace_size}));
    MOEJIT_RETURN_IF_ERROR(fetch(outputs.out.data(), out, outputs.out.size()));
    MOEJIT_RETURN_IF_ERROR(fetch(outputs.topk_ids.data(), ids, slots * sizeof(int32_t)));
    MOEJIT_RETURN_IF_ERROR(fetch(outputs.topk_weights.data(), weights, slots * sizeof(float)));
    return outputs;
  }

 private:
  void* keep(std::shared_ptr<void> owner, void* data) {
    memory_.push_back(std::move(owner));
    return data;
  }
  void* fail(const Status& status) {
    if (status_.ok()) status_ = status;
    return nullptr;
  }
  // A file holds weights as the layout flags say; a layer of packed weights has them packed here.
  Status pack(const void** w13, const void** w2) {
    MOEJIT_RETURN_IF_ERROR(status_);
    const auto bytes = packed_bytes(kernel_.config(), kernel_.device());
    if (!bytes.ok()) return bytes.status();
    void* packed_w13 = reserve(bytes->w13);
    void* packed_w2 = reserve(bytes->w2);
    MOEJIT_RETURN_IF_ERROR(status_);
    MOEJIT_RETURN_IF_ERROR(
        pack_weights(kernel_.config(), *w13, *w2, packed_w13, packed_w2, kernel_.device()));
    *w13 = packed_w13;
    *w2 = packed_w2;
    return {};
  }
  const void* copy_of(const void* host, int64_t bytes) {
    const auto placed = place(device_, host, bytes);
    return placed.ok() ? keep(placed->owner, placed->data) : fail(placed.status());
  }
  const void* view(const internal::TensorView& tensor) {
    return copy_of(tensor.data, tensor.bytes);
  }
  template <typename T>
  const void* array(const std::vector<T>& values) {
    return copy_of(values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
  }
  void* reserve(int64_t bytes) {
    const auto memory = device_.allocate(static_cast<size_t>(std::max<int64_t>(bytes, 16)));
    return memory.ok() ? keep(*memory, memory->get()) : fail(memory.status());
  }
  Status fetch(void* host, const void* device, size_t bytes) {
    MOEJIT_RETURN_IF_ERROR(device_.synchronize());
    return bytes == 0 ? Status() : device_.copy_out(host, device, bytes);
  }

  const Kernel& kernel_;
  const internal::Device& device_;
  const LayerInputs& inputs_;
  std::vector<std::shared_ptr<void>> memory_;
  Status status_;
};

class Run : public Command {
  void declare(OptionSet& options) override {
    layer_.declare_one(options);
    device_.declare(options);
    options.value("-i,--inputs", "FILE", &inputs_,
                  "safetensors with x, w13, w2 and topk_ids + topk_weights or router_logits; where "
                  "the layer has them b13, b2, correction_bias");
    options.value("-o,--output", "FILE", &output_,
                  "safetensors with out, and the topk_ids and topk_weights that the layer routed");
    options.flag("--strict", &strict_,
                 "Refuse ids outside [0, num_experts) instead of skipping them");
    options.flag("--require", &require_, "Exit code 3 where the cache holds no compiled kernel");
  }

  Result<Kernel> prepare(const MoeConfig& config, int64_t tokens) {
    Options options;
    options.device = device_.name();
    options.num_threads = device_.threads;
    options.cache_path = device_.cache_dir;
    options.max_tokens = std::max<int64_t>(tokens, 1);
    options.tokens = {options.max_tokens};
    options.policy = require_ ? Policy::kFrozen : Policy::kCached;
    return get_kernel(config, options);
  }

  Status write(const Kernel& kernel, const LayerInputs& inputs, const Outputs& outputs,
               Table* table) {
    const MoeConfig& config = kernel.config();
    const std::vector<int64_t> slots = {inputs.num_tokens, config.top_k};
    std::vector<internal::NamedTensor> tensors;
    tensors.push_back({"out",
                       {tensor_type(config.dtype),
                        {inputs.num_tokens, config.hidden_size},
                        outputs.out.data(),
                        static_cast<int64_t>(outputs.out.size())}});
    if (inputs.routed) {
      tensors.push_back({"topk_ids",
                         {internal::TensorType::kI32, slots, outputs.topk_ids.data(),
                          static_cast<int64_t>(outputs.topk_ids.size() * sizeof(int32_t))}});
      tensors.push_back({"topk_weights",
                         {internal::TensorType::kF32, slots, outputs.topk_weights.data(),
                          static_cast<int64_t>(outputs.topk_weights.size() * sizeof(float))}});
    }
    for (const internal::NamedTensor& tensor : tensors) {
      table->add({tensor.name, describe(tensor.tensor), tensor.tensor.bytes});
    }
    const Status written = internal::write_safetensors(
        output_, tensors,
        {{"moejit", version()}, {"config", config.to_json()}, {"device", kernel.device()}});
    return written.ok() ? written : Status(StatusCode::kIoError, written.message());
  }

  ExitCode run(Context& context) override {
    if (inputs_.empty()) return context.fail(invalid_argument("inputs: give --inputs FILE"));
    if (output_.empty()) return context.fail(invalid_argument("output: give --output FILE"));
    auto config = layer_.resolve();
    if (!config.ok()) return context.fail(config.status());
    struct stat in {
    }, out{};
    if (stat(inputs_.c_str(), &in) == 0 && stat(output_.c_str(), &out) == 0 &&
        in.st_dev == out.st_dev && in.st_ino == out.st_ino) {
      return context.fail(
          invalid_argument("output = " + output_ + ": is the file of --inputs; must be another"));
    }
    auto file = internal::SafeTensors::open(inputs_);
    if (!file.ok()) {
      return context.fail(invalid_argument("inputs = " + file.status().message()));
    }
    auto inputs = while_busy(context, "reading " + inputs_,
                             [&] { return read_layer_inputs(*file, *config, strict_); });
    if (!inputs.ok()) return context.fail(inputs.status());
    if (const Status status = device_.check(*config); !status.ok()) return context.fail(status);

    auto device = internal::open_device(device_.name(), device_.threads);
    if (!device.ok()) return context.fail(device.status());
    // A device that only compiles says so before anything is compiled for it.
    if (auto memory = (*device)->allocate(256); !memory.ok()) return context.fail(memory.status());
    if (const std::string folder = internal::parent_path(output_);
        !internal::is_directory(folder)) {
      return context.fail(
          Status(StatusCode::kIoError, "output = " + output_ + ": no directory " + folder));
    }
    auto kernel =
        while_busy(context, "compiling", [&] { return prepare(*config, inputs->num_tokens); });
    if (!kernel.ok()) return context.fail(kernel.status());
    auto outputs = while_busy(context, "running the layer",
                              [&] { return Launch(*kernel, **device, *inputs).run(); });
    if (!outputs.ok()) return context.fail(outputs.status());

    Table table({{"tensor", "tensor"}, {"type", "type"}, {"bytes", "size", Unit::kBytes}});
    table.fact("output", "output", output_);
    table.fact("device", "device", kernel->device());
    table.fact("tokens", "tokens", inputs->num_tokens);
    const Status written = while_busy(context, "writing " + output_,
                                      [&] { return write(*kernel, *inputs, *outputs, &table); });
    if (!written.ok()) return context.fail(written);
    return context.print(table);
  }

  LayerSelector layer_;
  DeviceSelector device_;
  std::string inputs_, output_;
  bool strict_ = false, require_ = false;
};

}  // namespace

std::unique_ptr<Command> make_run() {
  return std::make_unique<Run>();
}

}  // namespace moejit::tools
