// The files of a cache directory: how the database is created, set aside and removed, each as one
// step that a crash cannot leave half done.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/file_lock.h"

namespace moejit::internal {

inline constexpr const char* kConnectedLock = "cache.lock";  // shared: connected; exclusive: alone
inline constexpr const char* kInitLock = "init.lock";        // creation and migration
inline constexpr const char* kStripeFolder = "locks";        // compile-once

// Makes the database where there is none; one that appeared meanwhile is fine. `connected` is held
// by the caller and still held on return. "" or why not.
std::string create_database(const std::string& directory, bool network, FileLock* connected);

// Renames the database with its -wal and -shm to *.bad-<time>, and removes older ones. Only with
// the exclusive lock. Returns the new name, "" on failure.
std::string set_database_aside(const std::string& directory);

// Removes the database with everything that was set aside or left half-made; the lock files stay.
// Only with the exclusive lock. Returns the bytes of what had been set aside.
int64_t remove_database(const std::string& directory);

// Removes the files of a directory that begin with `prefix` and are older than an hour: what
// processes left that died while writing.
void remove_stale(const std::string& directory, std::string_view prefix);

// Flushes a file to the disk. "" or why not.
std::string sync_file(const std::string& path);

// A path as it is written in an SQLite URI.
std::string uri_escape(std::string_view path);

}  // namespace moejit::internal
