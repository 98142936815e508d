// Memory whose end touches a page that traps, and whose front is watched: a kernel that reads past
// a tensor faults, one that writes before it is found by intact().
#pragma once

#include <cstddef>
#include <cstdint>

namespace moejit_test {

class GuardedBuffer {
 public:
  GuardedBuffer() = default;
  // `bytes` at an address that is a multiple of `alignment` and, where bytes allows it, of no
  // larger power of two: what a caller may pass, and no kinder. Filled with NaN.
  explicit GuardedBuffer(size_t bytes, size_t alignment = 16);
  ~GuardedBuffer();
  GuardedBuffer(GuardedBuffer&& other) noexcept;
  GuardedBuffer& operator=(GuardedBuffer&& other) noexcept;

  void* data() { return data_; }
  const void* data() const { return data_; }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // All bits set: NaN in every float format, -1 in every integer.
  void fill_nan();
  // Nothing outside [data, data + size) was written.
  bool intact() const;

 private:
  uint8_t* map_ = nullptr;
  size_t map_size_ = 0;
  size_t usable_ = 0;  // bytes of the map before the trapping page
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace moejit_test
