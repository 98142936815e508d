#include "base/fs.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace moejit::internal {
namespace {

class FsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "moejit-fs-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  std::string path(const char* name) const { return join_path(root_, name); }
  std::string root_;
};

TEST(PathTest, JoinsAndSplits) {
  EXPECT_EQ(join_path("a", "b"), "a/b");
  EXPECT_EQ(join_path("a/", "b"), "a/b");
  EXPECT_EQ(join_path("", "b"), "b");
  EXPECT_EQ(parent_path("/a/b"), "/a");
  EXPECT_EQ(parent_path("/a/b/"), "/a");
  EXPECT_EQ(parent_path("/a"), "/");
  EXPECT_EQ(parent_path("/"), "/");
  EXPECT_EQ(parent_path("a"), ".");
}

TEST_F(FsTest, WritesAndReads) {
  const std::string text("a\0b\n", 4);
  ASSERT_TRUE(write_file(path("f"), text, 0600).ok());
  EXPECT_EQ(*read_file(path("f")), text);
  EXPECT_EQ(file_size(path("f")), 4);
  EXPECT_TRUE(path_exists(path("f")));
  EXPECT_FALSE(is_directory(path("f")));
  EXPECT_TRUE(is_directory(root_));
  struct stat st;
  ASSERT_EQ(::stat(path("f").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  ASSERT_TRUE(write_file(path("f"), "new").ok());
  EXPECT_EQ(*read_file(path("f")), "new");
  int entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(root_)) {
    ++entries;
    EXPECT_EQ(entry.path().filename(), "f");  // no temporary is left
  }
  EXPECT_EQ(entries, 1);
}

TEST_F(FsTest, APipeIsWrittenToAndNotReplaced) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  const int reader = ::open(path("pipe").c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  EXPECT_TRUE(write_file(path("pipe"), "text").ok());
  char text[8] = {};
  EXPECT_EQ(::read(reader, text, sizeof text), 4);
  EXPECT_STREQ(text, "text");
  ::close(reader);
  struct stat st;
  ASSERT_EQ(::stat(path("pipe").c_str(), &st), 0);
  EXPECT_TRUE(S_ISFIFO(st.st_mode));
  EXPECT_FALSE(write_file(root_, "x").ok());
}

TEST_F(FsTest, ErrorsNameTheFile) {
  const auto absent = read_file(path("absent"));
  EXPECT_EQ(absent.status().code(), StatusCode::kNotFound);
  EXPECT_NE(absent.status().message().find(path("absent")), std::string::npos);
  EXPECT_EQ(read_file(root_).status().code(), StatusCode::kIoError);
  ASSERT_TRUE(write_file(path("f"), std::string(1000, 'x')).ok());
  EXPECT_EQ(read_file(path("f"), 999).status().code(), StatusCode::kIoError);
  EXPECT_TRUE(read_file(path("f"), 1000).ok());
  EXPECT_FALSE(write_file(path("no/such/directory"), "x").ok());
  EXPECT_EQ(file_size(path("absent")), -1);
}

TEST_F(FsTest, MakesDirectories) {
  EXPECT_TRUE(make_directories(path("a/b/c"), 0700).ok());
  struct stat st;
  ASSERT_EQ(::stat(path("a/b/c").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
  EXPECT_TRUE(make_directories(path("a/b/c"), 0700).ok());
  ASSERT_TRUE(write_file(path("f"), "x").ok());
  EXPECT_FALSE(make_directories(path("f")).ok());
  EXPECT_FALSE(make_directories(path("f/g")).ok());
}

TEST_F(FsTest, TrustsOnlyWhatNobodyElseMayWrite) {
  ASSERT_TRUE(make_directories(path("d"), 0700).ok());
  EXPECT_TRUE(check_private_directory(path("d")).ok());
  ::chmod(path("d").c_str(), 0755);
  EXPECT_TRUE(check_private_directory(path("d")).ok());
  for (const mode_t mode : {0775, 0757, 01777}) {
    ::chmod(path("d").c_str(), mode);
    EXPECT_FALSE(check_private_directory(path("d")).ok());
  }
  ::chmod(path("d").c_str(), 0700);
  ASSERT_EQ(::symlink("d", path("link").c_str()), 0);
  EXPECT_FALSE(check_private_directory(path("link")).ok());
  EXPECT_EQ(check_private_directory(path("absent")).code(), StatusCode::kNotFound);
  ASSERT_TRUE(write_file(path("f"), "x", 0644).ok());
  EXPECT_FALSE(check_private_directory(path("f")).ok());
  EXPECT_TRUE(check_trusted_file(path("f")).ok());
  ::chmod(path("f").c_str(), 0666);
  EXPECT_FALSE(check_trusted_file(path("f")).ok());
  EXPECT_FALSE(check_trusted_file(path("d")).ok());
}

TEST_F(FsTest, NamesNetworkFileSystems) {
  set_file_system_magic_for_test(0x0bd00bd0);
  EXPECT_EQ(network_file_system(root_), "lustre");
  set_file_system_magic_for_test(0xff534d42);
  EXPECT_EQ(network_file_system(root_), "cifs");
  set_file_system_magic_for_test(0xef53);  // ext4
  EXPECT_EQ(network_file_system(root_), "");
  set_file_system_magic_for_test(0);
  EXPECT_EQ(network_file_system("/proc"), "");
  EXPECT_EQ(network_file_system(path("absent")), "");
}

}  // namespace
}  // namespace moejit::internal
