#include "moejit/pack.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>

#include "backends/backend.h"
#include "generator/packed_layout.h"
#include "runtime/memory.h"

namespace moejit {
namespace {

using internal::Memory;
using internal::PackedLayout;

// One expert's weights in place: element (row, k) is at row * row_stride + k * k_stride.
struct Source {
  int64_t row_stride, k_stride;
};

// The rows of a block: at most 2 * 16, those below 0 zeros.
using Rows = std::array<int64_t, 32>;

// One block of `rows`, all `length` long. A line of one row is read at a time: lines of several
// rows of an even stride would push each other out of the L1.
template <typename T>
void pack_block(const T* from, const Source& source, const Rows& rows, const PackedLayout& layout,
                int64_t length, T* to) {
  constexpr int64_t kLine = 64 / int64_t{sizeof(T)};
  const int64_t depth = layout.depth, step = layout.step();
  for (int64_t k = 0; k < length; k += kLine) {
    const int64_t end = std::min(k + kLine, length);
    T* place = to + k / depth * step;
    for (int64_t r = 0; r < layout.block_rows(); ++r) {
      const int64_t row = rows[static_cast<size_t>(r)];
      T* t = place;
      place += depth;
      for (int64_t j = k; j < end; j += depth, t += step) {
        for (int64_t d = 0; d < depth; ++d) {
          t[d] = row < 0 ? T{} : from[row * source.row_stride + (j + d) * source.k_stride];
        }
      }
    }
  }
}

template <typename T>
void pack_w13(const MoeConfig& c, const PackedLayout& layout, const T* from, int64_t block, T* to) {
  const int64_t per_block = c.gated ? layout.lanes : layout.block_rows();
  Rows rows{};
  for (int64_t r = 0; r < layout.block_rows(); ++r) {
    const int64_t i = block * per_block + r % per_block;
    rows[static_cast<size_t>(r)] =
        i < c.intermediate_size ? internal::w13_row(c, r >= per_block ? 1 : 0, i) : -1;
  }
  const Source source = c.transposed ? Source{1, c.w13_rows()} : Source{c.hidden_size, 1};
  pack_block(from, source, rows, layout, c.hidden_size, to);
}

template <typename T>
void pack_w2(const MoeConfig& c, const PackedLayout& layout, const T* from, int64_t block, T* to) {
  Rows rows{};
  for (int64_t r = 0; r < layout.block_rows(); ++r) {
    const int64_t n = block * layout.block_rows() + r;
    rows[static_cast<size_t>(r)] = n < c.hidden_size ? n : -1;
  }
  const Source source = c.transposed ? Source{1, c.hidden_size} : Source{c.intermediate_size, 1};
  pack_block(from, source, rows, layout, c.intermediate_size, to);
}

// Calls body(0) ... body(count - 1) from several threads.
template <typename Body>
void for_each(int64_t count, int64_t threads, const Body& body) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t i; (i = next++) < count;) body(i);
  };
  std::vector<std::thread> helpers;
  try {
    helpers.reserve(static_cast<size_t>(threads));
    for (int64_t t = 1; t < std::min(threads, count); ++t) helpers.emplace_back(work);
  } catch (const std::exception&) {
    // No memory or no thread: fewer do it, too.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
}

// What a device's kernels read, and its threads, which arrange it.
struct Packer {
  PackedLayout layout;
  int64_t threads;
};

template <typename T>
void pack(const MoeConfig& c, const Packer& packer, const void* w13, const void* w2,
          void* packed_w13, void* packed_w2) {
  const PackedLayout& layout = packer.layout;
  const int64_t experts = c.total_experts();
  const auto each = [&](const void* from, int64_t expert_from, void* to, int64_t blocks,
                        int64_t block_size, const auto& one) {
    if (from == nullptr) return;
    for_each(experts * blocks, packer.threads, [&](int64_t i) {
      const T* expert = static_cast<const T*>(from) + i / blocks * expert_from;
      one(c, layout, expert, i % blocks, static_cast<T*>(to) + i * block_size);
    });
  };
  each(w13, c.w13_rows() * c.hidden_size, packed_w13, layout.w13_blocks(c),
       layout.block_rows() * c.hidden_size, pack_w13<T>);
  each(w2, int64_t{c.intermediate_size} * c.hidden_size, packed_w2, layout.w2_blocks(c),
       layout.block_rows() * c.intermediate_size, pack_w2<T>);
}

Result<Packer> packer_of(const MoeConfig& config, const std::string& device) {
  MOEJIT_RETURN_IF_ERROR(config.check());
  auto opened = internal::open_device(device);
  if (!opened.ok()) return opened.status();
  const auto layout = internal::packed_layout(config, (*opened)->info().target);
  if (!layout) {
    return Status(StatusCode::kUnsupported, "device = " + (*opened)->info().name +
                                                ": must be the CPU, no other reads packed weights");
  }
  return Packer{*layout, std::max((*opened)->info().target.num_units, 1)};
}

PackedBytes bytes_of(const MoeConfig& config, const PackedLayout& layout) {
  const int64_t each = int64_t{config.total_experts()} * size_of(config.dtype);
  return {each * layout.w13_elements(config), each * layout.w2_elements(config)};
}

// One tensor and where it is packed to; neither, or both.
Status check_pair(const Memory& from, const Memory& to) {
  if (from.start == nullptr && to.start == nullptr) return {};
  MOEJIT_RETURN_IF_ERROR(internal::check_pointer(from.field, from.start, 16));
  MOEJIT_RETURN_IF_ERROR(internal::check_pointer(to.field, to.start, 16));
  return internal::check_apart(to, from);
}

}  // namespace

inline namespace v1 {

Result<PackedBytes> packed_bytes(const MoeConfig& config, const std::string& device) {
  const Result<Packer> packer = packer_of(config, device);
  if (!packer.ok()) return packer.status();
  return bytes_of(config, packer->layout);
}

Status pack_weights(const MoeConfig& config, const void* w13, const void* w2, void* packed_w13,
                    void* packed_w2, const std::string& device) {
  const Result<Packer> packer = packer_of(config, device);
  if (!packer.ok()) return packer.status();
  if (w13 == nullptr && w2 == nullptr && packed_w13 == nullptr && packed_w2 == nullptr) {
    return invalid_argument("w13 = null, and w2 too: at least one must point to the tensor");
  }
  const PackedBytes bytes = bytes_of(config, packer->layout);
  const int64_t rows = int64_t{config.total_experts()} * size_of(config.dtype) * config.hidden_size;
  const Memory from13{"w13", w13, rows * config.w13_rows()};
  const Memory from2{"w2", w2, rows * config.intermediate_size};
  const Memory to13{"packed_w13", packed_w13, bytes.w13}, to2{"packed_w2", packed_w2, bytes.w2};
  MOEJIT_RETURN_IF_ERROR(check_pair(from13, to13));
  MOEJIT_RETURN_IF_ERROR(check_pair(from2, to2));
  MOEJIT_RETURN_IF_ERROR(internal::check_apart(to13, from2));
  MOEJIT_RETURN_IF_ERROR(internal::check_apart(to2, from13));
  MOEJIT_RETURN_IF_ERROR(internal::check_apart(to13, to2));
  if (config.dtype == DType::kF32) {
    pack<uint32_t>(config, *packer, w13, w2, packed_w13, packed_w2);
  } else {
    pack<uint16_t>(config, *packer, w13, w2, packed_w13, packed_w2);
  }
  return {};
}

}  // namespace v1
}  // namespace moejit
