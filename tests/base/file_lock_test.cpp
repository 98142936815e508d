#include "base/file_lock.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "base/fs.h"

namespace moejit::internal {
namespace {

using Outcome = FileLock::Outcome;

class FileLockTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "moejit-lock-XXXXXX").string();
    root_ = ::mkdtemp(pattern.data());
    path_ = join_path(root_, "lock");
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  std::string root_, path_;
};

TEST_F(FileLockTest, ExclusiveKeepsOthersOutAndSharedLetsSharedIn) {
  FileLock a, b;
  ASSERT_EQ(a.acquire(path_, LockKind::kExclusive, 0), Outcome::kHeld);
  EXPECT_EQ(b.acquire(path_, LockKind::kShared, 0), Outcome::kTimeout);
  EXPECT_FALSE(b.held());
  a.release();
  ASSERT_EQ(a.acquire(path_, LockKind::kShared, 0), Outcome::kHeld);
  ASSERT_EQ(b.acquire(path_, LockKind::kShared, 0), Outcome::kHeld);
  FileLock c;
  EXPECT_EQ(c.acquire(path_, LockKind::kExclusive, 0.02), Outcome::kTimeout);
}

TEST_F(FileLockTest, MovesAndEndsWithItsOwner) {
  FileLock b;
  {
    FileLock a;
    ASSERT_EQ(a.acquire(path_, LockKind::kExclusive, 0), Outcome::kHeld);
    FileLock moved = std::move(a);
    EXPECT_TRUE(moved.held());
    EXPECT_FALSE(a.held());  // NOLINT: a moved-from lock holds nothing
    EXPECT_EQ(b.acquire(path_, LockKind::kExclusive, 0), Outcome::kTimeout);
  }
  EXPECT_EQ(b.acquire(path_, LockKind::kExclusive, 0), Outcome::kHeld);
}

TEST_F(FileLockTest, FailsWithAReason) {
  FileLock a;
  EXPECT_EQ(a.acquire(join_path(root_, "no/such"), LockKind::kShared, 0), Outcome::kFailed);
  EXPECT_EQ(a.error(), ENOENT);
  ASSERT_EQ(::symlink("lock", join_path(root_, "link").c_str()), 0);
  EXPECT_EQ(a.acquire(join_path(root_, "link"), LockKind::kShared, 0), Outcome::kFailed);
  EXPECT_EQ(a.error(), ELOOP);
}

TEST_F(FileLockTest, WaitsForAProcessThatDies) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    FileLock held;
    char c = held.acquire(path_, LockKind::kExclusive, 0) == Outcome::kHeld ? 'y' : 'n';
    if (::write(ready[1], &c, 1) == 1) ::pause();
    ::_exit(0);
  }
  char c = 0;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  ASSERT_EQ(c, 'y');
  FileLock a;
  EXPECT_EQ(a.acquire(path_, LockKind::kExclusive, 0.01), Outcome::kTimeout);
  ::kill(pid, SIGKILL);
  EXPECT_EQ(a.acquire(path_, LockKind::kExclusive, 30), Outcome::kHeld);
  ::waitpid(pid, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(FileLockTest, ForkedChildHoldsNothingAndReleasesNothing) {
  FileLock held;
  ASSERT_EQ(held.acquire(path_, LockKind::kExclusive, 0), Outcome::kHeld);
  const uint64_t generation = fork_generation();
  int stop[2], checked[2];
  ASSERT_EQ(::pipe(stop), 0);
  ASSERT_EQ(::pipe(checked), 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (fork_generation() != generation + 1) ::_exit(1);
    FileLock mine;
    if (mine.acquire(path_, LockKind::kExclusive, 0) != Outcome::kTimeout) ::_exit(2);
    held.release();  // the child's copy: must not unlock the parent's
    if (mine.acquire(path_, LockKind::kExclusive, 0) != Outcome::kTimeout) ::_exit(3);
    char c = 'y';
    if (::write(checked[1], &c, 1) != 1 || ::read(stop[0], &c, 1) != 1) ::_exit(4);
    ::_exit(0);
  }
  // While the child lives, the parent's release is a release.
  ::close(checked[1]);
  char c = 0;
  EXPECT_EQ(::read(checked[0], &c, 1), 1);
  held.release();
  FileLock again;
  EXPECT_EQ(again.acquire(path_, LockKind::kExclusive, 5), Outcome::kHeld);
  again.release();
  ASSERT_EQ(::write(stop[1], "x", 1), 1);
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_EQ(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0);
  EXPECT_EQ(fork_generation(), generation);
  for (const int fd : {stop[0], stop[1], checked[0]}) ::close(fd);
}

}  // namespace
}  // namespace moejit::internal
