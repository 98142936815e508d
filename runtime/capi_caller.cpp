// Launches on the tensors of an interpreter's framework: one call from the binding, all checks
// here.
#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "backends/backend.h"
#include "generator/packed_layout.h"
#include "moejit/moejit_c.h"
#include "runtime/capi_guard.h"
#include "runtime/capi_handles.h"

namespace {

using moejit::DType;
using moejit::invalid_argument;
using moejit::Status;

// DLTensor of DLPack 1.
struct DlTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  const int64_t* shape;
  const int64_t* strides;  // in elements; null: row-major
  uint64_t byte_offset;
};
static_assert(sizeof(DlTensor) == 48);

enum DlDevice { kDlCpu = 1, kDlCuda = 2, kDlRocm = 10 };
enum DlCode { kDlInt = 0, kDlFloat = 2, kDlBfloat = 4 };

constexpr int kX = 0, kTopkWeights = 3, kTopkIds = 4, kOut = 5, kMostObjects = 8;
constexpr const char* kNames[kMostObjects] = {"x",        "w13", "w2",  "topk_weights",
                                              "topk_ids", "out", "b13", "b2"};
constexpr int64_t kTokens = -1;  // in a shape

struct Expected {
  int32_t ndim = 0;
  std::array<int64_t, 3> shape{};
  uint8_t code = 0, bits = 0;
};

struct Seen {
  const char* begin = nullptr;
  int64_t bytes = 0;
};

// Dense, row-major and what the layer takes; strides of dimensions of size 1 mean nothing.
bool look(const DlTensor& tensor, const Expected& expected, int64_t tokens, Seen* seen) {
  if (tensor.ndim != expected.ndim || tensor.code != expected.code ||
      tensor.bits != expected.bits || tensor.lanes != 1 || tensor.data == nullptr) {
    return false;
  }
  int64_t count = 1;
  for (int32_t i = expected.ndim; i-- > 0;) {
    const int64_t wanted = expected.shape[static_cast<size_t>(i)];
    const int64_t size = wanted == kTokens ? tokens : wanted;
    if (tensor.shape[i] != size) return false;
    if (tensor.strides != nullptr && size != 1 && tensor.strides[i] != count) return false;
    count *= size;
  }
  seen->begin = static_cast<const char*>(tensor.data) + tensor.byte_offset;
  seen->bytes = count * expected.bits / 8;
  return true;
}

}  // namespace

struct moejit_caller {
  const moejit_kernel* kernel = nullptr;
  moejit_caller_desc desc{};
  int32_t device_type = kDlCpu, device_id = 0;
  int count = 6;
  int64_t max_tokens = 0;
  std::array<Expected, kMostObjects> expected;

  Status launch(void* objects) const;

 private:
  Status refuse(int index) const {
    return invalid_argument(std::string(kNames[index]) +
                            ": must be a dense tensor of the layer's shape, type and device");
  }
};

namespace {

// Packed tensors keep the number of dimensions: rows are filled up to whole blocks.
std::array<Expected, kMostObjects> expected_of(const moejit::MoeConfig& c,
                                               const moejit::internal::Target& target) {
  const int64_t experts = int64_t{c.num_experts} + c.num_shared_experts, hidden = c.hidden_size,
                inner = c.intermediate_size, rows = (c.gated ? 2 : 1) * inner;
  const auto code = static_cast<uint8_t>(c.dtype == DType::kBF16 ? kDlBfloat : kDlFloat);
  const uint8_t bits = c.dtype == DType::kF32 ? 32 : 16;
  const Expected row{2, {kTokens, hidden, 0}, code, bits};
  Expected w13{3, {experts, rows, hidden}, code, bits}, w2{3, {experts, hidden, inner}, code, bits};
  if (c.packed) {
    const auto elements = moejit::internal::weight_elements(c, target);
    w13.shape[1] = elements.w13 / experts / hidden;
    w2.shape[1] = elements.w2 / experts / inner;
  } else if (c.transposed) {
    std::swap(w13.shape[1], w13.shape[2]);
    std::swap(w2.shape[1], w2.shape[2]);
  }
  return {row,
          w13,
          w2,
          {2, {kTokens, c.top_k, 0}, kDlFloat, 32},
          {2, {kTokens, c.top_k, 0}, kDlInt, 32},
          row,
          {2, {experts, rows, 0}, code, bits},
          {2, {experts, hidden, 0}, code, bits}};
}

// Holds the interpreter's lock open while the launch does the work.
class Unlocked {
 public:
  explicit Unlocked(const moejit_caller_desc& desc)
      : lock_(desc.lock), state_(desc.unlock != nullptr ? desc.unlock() : nullptr) {}
  ~Unlocked() {
    if (state_ != nullptr) lock_(state_);
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  void (*lock_)(void*);
  void* state_;
};

}  // namespace

Status moejit_caller::launch(void* objects) const {
  std::array<Seen, kMostObjects> seen;
  int64_t tokens = 0;
  for (int i = 0; i < count; ++i) {
    const auto slot = static_cast<size_t>(i);
    DlTensor tensor{};
    void* object = desc.item(objects, i);
    if (object == nullptr || desc.describe(object, &tensor) != 0) {
      desc.clear_error();
      return refuse(i);
    }
    if (i == kX) {
      if (tensor.ndim != 2) return refuse(i);
      tokens = tensor.shape[0];
      if (tokens < 1 || tokens > max_tokens) return refuse(i);
    }
    if (tensor.device_type != device_type ||
        (device_type != kDlCpu && tensor.device_id != device_id) ||
        !look(tensor, expected[slot], tokens, &seen[slot])) {
      return refuse(i);
    }
  }
  const Seen& out = seen[kOut];
  for (int i = 0; i < count; ++i) {
    const Seen& other = seen[static_cast<size_t>(i)];
    if (i != kOut && out.begin < other.begin + other.bytes && other.begin < out.begin + out.bytes) {
      return invalid_argument(std::string("out overlaps ") + kNames[i] +
                              ": must be memory of its own");
    }
  }
  moejit::LaunchArgs args{};
  args.num_tokens = tokens;
  args.x = seen[0].begin;
  args.w13 = seen[1].begin;
  args.w2 = seen[2].begin;
  args.topk_weights = reinterpret_cast<const float*>(seen[kTopkWeights].begin);
  args.topk_ids = reinterpret_cast<const int32_t*>(seen[kTopkIds].begin);
  args.out = const_cast<char*>(out.begin);
  args.b13 = seen[6].begin;
  args.b2 = seen[7].begin;
  args.workspace = desc.workspace;
  args.workspace_size = desc.workspace_size;
  const Unlocked unlocked(desc);
  return kernel->kernel.launch(args, desc.stream);
}

extern "C" {

moejit_status moejit_caller_create(const moejit_kernel* kernel, const moejit_caller_desc* desc,
                                   moejit_caller** caller) {
  return moejit::internal::guarded([&]() -> Status {
    MOEJIT_REQUIRE(caller);
    *caller = nullptr;
    MOEJIT_REQUIRE(kernel);
    moejit_caller made;
    MOEJIT_RETURN_IF_ERROR(moejit::internal::read_struct("desc", desc, &made.desc));
    const moejit_caller_desc& given = made.desc;
    for (const auto& [field, missing] : {std::pair{"desc->describe", given.describe == nullptr},
                                         {"desc->item", given.item == nullptr},
                                         {"desc->clear_error", given.clear_error == nullptr},
                                         {"desc->workspace", given.workspace == nullptr}}) {
      if (missing) return moejit::internal::null(field);
    }
    if ((given.unlock == nullptr) != (given.lock == nullptr)) {
      return invalid_argument("desc->lock: must be given exactly where desc->unlock is");
    }
    made.kernel = kernel;
    const std::string& device = kernel->kernel.device();
    for (const auto& [prefix, type] : {std::pair{"cuda:", kDlCuda}, std::pair{"hip:", kDlRocm}}) {
      if (device.rfind(prefix, 0) != 0) continue;
      made.device_type = type;
      made.device_id = std::atoi(device.c_str() + std::strlen(prefix));
    }
    made.count = kernel->kernel.config().bias ? kMostObjects : 6;
    made.max_tokens = kernel->kernel.max_tokens();
    auto opened = moejit::internal::open_device(device);
    if (!opened.ok()) return opened.status();
    made.expected = expected_of(kernel->kernel.config(), (*opened)->info().target);
    *caller = new moejit_caller(made);
    return Status();
  });
}

moejit_status moejit_caller_launch(const moejit_caller* caller, void* objects) {
  return moejit::internal::guarded([&]() -> Status {
    MOEJIT_REQUIRE(caller);
    MOEJIT_REQUIRE(objects);
    return caller->launch(objects);
  });
}

void moejit_caller_destroy(moejit_caller* caller) {
  delete caller;
}

}  // extern "C"
