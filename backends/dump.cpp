#include "backends/dump.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/settings.h"

namespace moejit::internal {
namespace {

std::string file_safe(const std::string& name) {
  std::string safe;
  for (char c : name) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '-' || c == '.';
    safe += plain ? c : '_';
  }
  return safe.empty() || safe[0] == '.' ? "kernel" + safe : safe;
}

bool write_all(int fd, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

bool dump_requested() {
  return !settings().dump_dir.empty();
}

std::string dump_source(const KernelSource& source) {
  return dump_source_to(settings().dump_dir, source);
}

std::string dump_source_to(const std::string& wanted, const KernelSource& source) {
  std::string name = file_safe(source.name);
  std::string extension = ".cc";
  if (const size_t dot = name.rfind('.'); dot != std::string::npos && dot > 0) {
    extension = name.substr(dot);
    name.resize(dot);
  }
  // The digest keeps sources of one name apart; equal sources share a file.
  const auto digest = Sha256().field(source.arch).field(source.text).finish();
  const std::string stem = name + "-" + to_hex(digest.data(), 6);

  const bool requested = !wanted.empty();
  std::string directory = wanted;
  if (requested) {
    if (const Status made = make_directories(directory, 0777); !made.ok()) {
      log_once(LogLevel::kWarning, "dump", directory, made.message());
      return {};
    }
  } else {
    const char* temporary = getenv("TMPDIR");
    directory = temporary != nullptr && *temporary != '\0' ? temporary : "/tmp";
  }
  // A fresh private file first: nobody's link is followed, and a reader sees the whole text or
  // none.
  std::string path = directory + "/" + stem + "-XXXXXX" + extension;
  const int fd = mkstemps(path.data(), static_cast<int>(extension.size()));
  // A directory that somebody named gets a warning; a temporary one is a courtesy.
  const auto give_up = [&]() -> std::string {
    if (requested) {
      log_once(LogLevel::kWarning, "dump", directory,
               "cannot write to " + directory + ": " + errno_message(errno));
    }
    if (fd >= 0) unlink(path.c_str());
    return {};
  };
  if (fd < 0) return give_up();
  const bool written = write_all(fd, source.text);
  if (written && requested) fchmod(fd, 0644);
  if (close(fd) != 0 || !written) return give_up();
  if (!requested) return path;
  const std::string final_path = directory + "/" + stem + extension;
  if (rename(path.c_str(), final_path.c_str()) != 0) return give_up();
  return final_path;
}

}  // namespace moejit::internal
