// Signed packs: whose they are, and what is refused.
#include "cache/signature.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "base/hash.h"
#include "cache/exchange.h"
#include "fixture.h"

namespace moejit::internal {
namespace {

using testing::HasSubstr;

class SignatureTest : public CacheTest {
 protected:
  void SetUp() override {
    if (const Status can = signatures_available(); !can.ok()) GTEST_SKIP() << can.message();
    key_ = join_path(root_, "key");
    pack_ = join_path(root_, "ship.moepack");
    ASSERT_TRUE(make_signing_key(key_).ok());
    const auto store = open();
    ASSERT_TRUE(
        store->find_or_compile(key_of(1), []() -> Result<StoredBinary> { return binary_of(1); })
            .ok());
    store->select(selection_of(8, "{\"n\":1}"));
  }
  PackReport pack(const std::string& key) {
    const auto report = pack_cache({directory_}, pack_, {.sign = key});
    EXPECT_TRUE(report.ok()) << report.status().to_string();
    return report.ok() ? *report : PackReport{};
  }
  Result<MergeReport> merge(const std::string& keys) {
    return merge_cache({join_path(root_, "other")}, {pack_}, {.trust = keys});
  }
  void expect_refused(const std::string& why) {
    const auto report = merge(key_ + ".pub");
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.status().code(), StatusCode::kVerificationFailed);
    EXPECT_THAT(report.status().message(), HasSubstr(why));
  }
  std::string key_, pack_;
};

// RFC 8032, section 7.1, test 1: the public half of a secret key that others know too.
TEST_F(SignatureTest, KeysAreThoseOfTheStandard) {
  const std::string known = join_path(root_, "known");
  ASSERT_TRUE(write_file(known,
                         "moejit secret key 1\n"
                         "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60\n",
                         0600)
                  .ok());
  ASSERT_TRUE(sign_pack(pack_, std::string(64, '0'), known).ok());
  EXPECT_THAT(*read_file(signature_path(pack_)),
              HasSubstr("key d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\n"));
}

TEST_F(SignatureTest, CodeForTheCpuIsTakenFromAPackOfATrustedKey) {
  const PackReport report = pack(key_);
  EXPECT_EQ(report.signature, pack_ + ".sig");
  EXPECT_EQ(merge_cache({join_path(root_, "third")}, {pack_})->binaries_refused, 1);
  const auto merged = merge(key_ + ".pub");
  ASSERT_TRUE(merged.ok()) << merged.status().to_string();
  EXPECT_EQ(merged->binaries, 1);
  EXPECT_EQ(merged->binaries_refused, 0);
  EXPECT_THAT(*read_file(key_ + ".pub"), HasSubstr(merged->signed_by));
  // The pack is the same with and without a signature beside it.
  EXPECT_EQ(pack_cache({directory_}, pack_ + "2")->sha256, report.sha256);
}

TEST_F(SignatureTest, UnsignedIsRefusedAndNothingIsTaken) {
  pack("");
  expect_refused("is not signed: there is no " + pack_ + ".sig");
  EXPECT_FALSE(path_exists(join_path(root_, "other")));
}

TEST_F(SignatureTest, AnotherKeyIsRefusedByName) {
  const std::string stranger = join_path(root_, "stranger");
  const auto name = make_signing_key(stranger);
  ASSERT_TRUE(name.ok());
  pack(stranger);
  expect_refused("is signed by the key " + *name + ", which is not a trusted one");
  // Any of several keys will do.
  ASSERT_TRUE(write_file(join_path(root_, "both"),
                         "# us\n" + *read_file(key_ + ".pub") + "\n" + *name + "  # the stranger\n")
                  .ok());
  EXPECT_TRUE(merge(join_path(root_, "both")).ok());
}

TEST_F(SignatureTest, AChangedBitIsRefusedInThePackAndInTheSignature) {
  pack(key_);
  const std::string whole = *read_file(pack_), signature = *read_file(pack_ + ".sig");
  for (const size_t place : {size_t{70}, whole.size() / 2, whole.size() - 1}) {
    std::string changed = whole;
    changed[place] = static_cast<char>(changed[place] ^ 1);
    ASSERT_TRUE(write_file(pack_, changed).ok());
    expect_refused("one of them was changed");
  }
  ASSERT_TRUE(write_file(pack_, whole).ok());
  std::string changed = signature;
  char& digit = changed[changed.size() - 3];
  digit = digit == '0' ? '1' : '0';
  ASSERT_TRUE(write_file(pack_ + ".sig", changed).ok());
  expect_refused("one of them was changed");
  ASSERT_TRUE(write_file(pack_ + ".sig", signature.substr(0, 100)).ok());
  expect_refused("is no signature of version 1");
  ASSERT_TRUE(write_file(pack_ + ".sig", signature).ok());
  EXPECT_TRUE(merge(key_ + ".pub").ok());
}

TEST_F(SignatureTest, ANewPackLosesTheSignatureOfTheOldOne) {
  pack(key_);
  open()->select(selection_of(16, "{\"n\":2}"));
  pack("");
  EXPECT_FALSE(path_exists(pack_ + ".sig"));
}

TEST_F(SignatureTest, KeysAreNeitherReplacedNorLentNorMistaken) {
  EXPECT_EQ(make_signing_key(key_).status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(read_trusted_keys(key_).status().message(), HasSubstr("not \"a secret key\""));
  EXPECT_THAT(pack_cache({directory_}, pack_, {.sign = key_ + ".pub"}).status().message(),
              HasSubstr("must be"));
  ASSERT_EQ(::chmod(key_.c_str(), 0640), 0);
  const auto lent = pack_cache({directory_}, pack_, {.sign = key_});
  EXPECT_THAT(lent.status().message(), HasSubstr("its mode must be 0600"));
  EXPECT_FALSE(path_exists(pack_));
  ASSERT_TRUE(write_file(join_path(root_, "none"), "# nobody\n").ok());
  EXPECT_THAT(read_trusted_keys(join_path(root_, "none")).status().message(),
              HasSubstr("holds no key"));
  EXPECT_EQ(merge_cache({join_path(root_, "other")}, {directory_}, {.trust = key_ + ".pub"})
                .status()
                .code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace moejit::internal
