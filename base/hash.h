// SHA-256 (FIPS 180-4) and its use as a key.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace moejit::internal {

class Sha256 {
 public:
  Sha256();
  Sha256& update(const void* data, size_t size);
  // Length-prefixed, so that ("ab","c") and ("a","bc") differ.
  Sha256& field(std::string_view text);
  std::array<uint8_t, 32> finish();

 private:
  void block(const uint8_t* data);
  std::array<uint32_t, 8> state_;
  std::array<uint8_t, 64> buffer_;
  size_t filled_ = 0;
  uint64_t total_ = 0;
};

std::array<uint8_t, 32> sha256(const void* data, size_t size);
std::string to_hex(const uint8_t* data, size_t size);

}  // namespace moejit::internal
