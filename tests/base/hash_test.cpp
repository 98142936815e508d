// SHA-256 against the published examples, on the CPU's instructions and without them.
#include "base/hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace moejit::internal {
namespace {

class HashTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override { sha256_force_portable(GetParam()); }
  void TearDown() override { sha256_force_portable(false); }
};
INSTANTIATE_TEST_SUITE_P(Paths, HashTest, ::testing::Values(false, true), [](const auto& path) {
  return std::string(path.param ? "Portable" : "Best");
});

std::string hex_of(std::string_view text) {
  const auto digest = sha256(text.data(), text.size());
  return to_hex(digest.data(), digest.size());
}

// FIPS 180-4 and the NIST example values that accompany it.
TEST_P(HashTest, PublishedExamples) {
  EXPECT_EQ(hex_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hex_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hex_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hex_of("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnop"
                   "jklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu"),
            "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  EXPECT_EQ(hex_of(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(hex_of("\xbd"), "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b");
  EXPECT_EQ(hex_of("\xc9\x8c\x8e\x55"),
            "7abc22c0ae5af26ce93dbb94433a0e0b2e119d014f8e7f65bd56c61ccccd9504");
  EXPECT_EQ(hex_of(std::string(55, '\0')),
            "02779466cdec163811d078815c633f21901413081449002f24aa3e80f0b88ef7");
  EXPECT_EQ(hex_of(std::string(56, '\0')),
            "d4817aa5497628e7c77e6b606107042bbba3130888c5f47a375e6179be789fbb");
  EXPECT_EQ(hex_of(std::string(57, '\0')),
            "65a16cb7861335d5ace3c60718b5052e44660726da4cd13bb745381b235a1785");
  EXPECT_EQ(hex_of(std::string(64, '\0')),
            "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b");
}

TEST_P(HashTest, PiecesGiveTheSameAsTheWhole) {
  std::mt19937 random(5);
  std::string text(3000, '\0');
  for (char& c : text) c = static_cast<char>(random());
  for (size_t size = 0; size < 300; ++size) {
    const std::string part = text.substr(0, size * 7 % 3000);
    Sha256 hash;
    for (size_t at = 0; at < part.size();) {
      const size_t step = std::min<size_t>(part.size() - at, random() % 150);
      hash.update(part.data() + at, step);
      at += step;
    }
    EXPECT_EQ(hash.finish(), sha256(part.data(), part.size())) << part.size();
  }
}

TEST(HashMoreTest, BothPathsAgree) {
  std::mt19937 random(6);
  for (size_t size = 0; size < 1000; ++size) {
    std::string text(size, '\0');
    for (char& c : text) c = static_cast<char>(random());
    const std::string best = hex_of(text);
    sha256_force_portable(true);
    EXPECT_EQ(hex_of(text), best) << size;
    sha256_force_portable(false);
  }
}

TEST(HashMoreTest, FieldsCannotRunIntoEachOther) {
  EXPECT_NE(Sha256().field("ab").field("c").finish(), Sha256().field("a").field("bc").finish());
  EXPECT_NE(Sha256().field("").field("a").finish(), Sha256().field("a").field("").finish());
  EXPECT_EQ(Sha256().field("ab").field("c").finish(), Sha256().field("ab").field("c").finish());
}

TEST(HashMoreTest, FinishStartsAnew) {
  Sha256 hash;
  hash.update("something", 9).finish();
  EXPECT_EQ(hash.update("abc", 3).finish(), sha256("abc", 3));
}

TEST(HashMoreTest, HexThereAndBack) {
  const uint8_t bytes[] = {0x00, 0x7f, 0x80, 0xff, 0x0a};
  EXPECT_EQ(to_hex(bytes, 5), "007f80ff0a");
  std::vector<uint8_t> back;
  ASSERT_TRUE(from_hex("007F80ff0a", &back));
  EXPECT_EQ(back, std::vector<uint8_t>(bytes, bytes + 5));
  ASSERT_TRUE(from_hex("", &back));
  EXPECT_TRUE(back.empty());
  EXPECT_FALSE(from_hex("0", &back));
  EXPECT_FALSE(from_hex("0g", &back));
}

}  // namespace
}  // namespace moejit::internal
