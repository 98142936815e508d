#include "tests/generators/guarded_buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace moejit_test {
namespace {

size_t round_up(size_t value, size_t step) {
  return (value + step - 1) / step * step;
}

}  // namespace

GuardedBuffer::GuardedBuffer(size_t bytes, size_t alignment) : size_(bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t taken = round_up(bytes, alignment);
  usable_ = round_up(taken + 1, page);  // at least one watched byte in front
  map_size_ = usable_ + page;
  void* map = mmap(nullptr, map_size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED || mprotect(static_cast<uint8_t*>(map) + usable_, page, PROT_NONE) != 0) {
    perror("GuardedBuffer: mmap");
    abort();
  }
  map_ = static_cast<uint8_t*>(map);
  data_ = map_ + usable_ - taken;
  memset(map_, 0xFF, usable_);
}

GuardedBuffer::~GuardedBuffer() {
  if (map_ != nullptr) munmap(map_, map_size_);
}

GuardedBuffer::GuardedBuffer(GuardedBuffer&& other) noexcept {
  *this = std::move(other);
}

GuardedBuffer& GuardedBuffer::operator=(GuardedBuffer&& other) noexcept {
  std::swap(map_, other.map_);
  std::swap(map_size_, other.map_size_);
  std::swap(usable_, other.usable_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void GuardedBuffer::fill_nan() {
  if (size_ > 0) memset(data_, 0xFF, size_);
}

bool GuardedBuffer::intact() const {
  const uint8_t* end = map_ + usable_;
  for (const uint8_t* p = map_; p < data_; ++p) {
    if (*p != 0xFF) return false;
  }
  for (const uint8_t* p = data_ + size_; p < end; ++p) {
    if (*p != 0xFF) return false;
  }
  return true;
}

}  // namespace moejit_test
