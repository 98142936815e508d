// Runs a fuzz target on its seeds, on every truncation of them, and on mutations of fixed random
// seed. `--write DIR` writes the seeds as a corpus for libFuzzer; other arguments are files to run.
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "tests/fuzz/fuzz.h"

namespace {

// In a buffer of exactly the size, so that a sanitizer sees the first byte read past it.
void run(const std::string& input) {
  std::vector<uint8_t> exact(input.begin(), input.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

std::string mutate(std::string text, const std::vector<std::string>& seeds, std::mt19937& random) {
  static const char* const kTokens[] = {"{",   "}",    "[",    "]",     ",",  ":",  "\"",
                                        "\\u", "null", "true", "1e999", "-1", "0.", "2147483648"};
  for (unsigned n = random() % 4; n < 4; ++n) {
    const size_t at = text.empty() ? 0 : random() % text.size();
    switch (random() % 5) {
      case 0:
        text.insert(at, kTokens[random() % std::size(kTokens)]);
        break;
      case 1:
        text.erase(at, random() % 8);
        break;
      case 2:
        if (!text.empty()) text[at] = static_cast<char>(random());
        break;
      case 3:
        text.insert(at, text.substr(random() % (text.size() + 1), random() % 32));
        break;
      default: {
        const std::string& other = seeds[random() % seeds.size()];
        if (!other.empty()) text.insert(at, other.substr(random() % other.size(), random() % 64));
      }
    }
  }
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> seeds = fuzz_seeds();
  if (argc == 3 && std::strcmp(argv[1], "--write") == 0) {
    for (size_t i = 0; i < seeds.size(); ++i) {
      std::ofstream(std::string(argv[2]) + "/seed" + std::to_string(i), std::ios::binary)
          << seeds[i];
    }
    return 0;
  }
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    run({std::istreambuf_iterator<char>(file), {}});
  }
  if (argc > 1) return 0;

  constexpr int kMutations = 20000;
  std::mt19937 random(1);
  int inputs = 0;
  for (const std::string& seed : seeds) {
    for (size_t size = 0; size <= seed.size(); ++size, ++inputs) run(seed.substr(0, size));
  }
  for (int i = 0; i < kMutations; ++i, ++inputs) {
    run(mutate(seeds[random() % seeds.size()], seeds, random));
  }
  std::printf("%d inputs\n", inputs);
  return 0;
}
