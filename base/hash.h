// SHA-256 (FIPS 180-4) and its use as a key.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moejit::internal {

// With the SHA instructions of x86-64 where the CPU has them.
class Sha256 {
 public:
  Sha256();
  Sha256& update(const void* data, size_t size);
  // Length-prefixed, so that ("ab","c") and ("a","bc") differ.
  Sha256& field(std::string_view text);
  // The digest; afterwards the object is as new.
  std::array<uint8_t, 32> finish();

 private:
  void blocks(const uint8_t* data, size_t count);
  std::array<uint32_t, 8> state_;
  std::array<uint8_t, 64> buffer_;
  size_t filled_ = 0;
  uint64_t total_ = 0;
};

std::array<uint8_t, 32> sha256(const void* data, size_t size);
std::string to_hex(const uint8_t* data, size_t size);
// False where the text is not an even number of hexadecimal digits.
bool from_hex(std::string_view text, std::vector<uint8_t>* bytes);

// For tests: this thread takes the path of CPUs without SHA instructions.
void sha256_force_portable(bool on);

}  // namespace moejit::internal
