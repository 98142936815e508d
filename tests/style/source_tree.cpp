#include "tests/style/source_tree.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace fs = std::filesystem;

namespace moejit::style {
namespace {

constexpr std::array kFolders = {".ci",     "backends", "base",    "bench",    "cache",
                                 "cmake",   "data",     "docs",    "examples", "generator",
                                 "include", "python",   "runtime", "scripts",  "templates",
                                 "tests",   "tools",    "tuner"};

bool text_file(const fs::path& path) {
  static const std::array<std::string, 17> kEndings = {
      ".h",  ".c",  ".cc",   ".cpp", ".cu",    ".cuh",  ".inc", ".in", ".md",
      ".py", ".sh", ".json", ".txt", ".cmake", ".toml", ".yml", ""};
  return std::find(kEndings.begin(), kEndings.end(), path.extension().string()) != kEndings.end();
}

void add(const fs::path& root, const fs::path& path, std::vector<SourceFile>* files) {
  SourceFile file;
  file.path = fs::relative(path, root).generic_string();
  const size_t slash = file.path.find('/');
  if (slash != std::string::npos) file.folder = file.path.substr(0, slash);
  std::ifstream stream(path, std::ios::binary);
  file.text.assign(std::istreambuf_iterator<char>(stream), {});
  // Test data may be binary without saying so by its name.
  if (file.text.find('\0') == std::string::npos) files->push_back(std::move(file));
}

std::vector<SourceFile> read_tree() {
  const fs::path root = MOEJIT_SOURCE_DIR;
  std::vector<SourceFile> files;
  for (const auto& entry : fs::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    const bool hidden = name.front() == '.' && name != ".clang-format";
    if (entry.is_regular_file() && !hidden) add(root, entry.path(), &files);
  }
  for (const char* folder : kFolders) {
    if (!fs::is_directory(root / folder)) continue;
    fs::recursive_directory_iterator walk(root / folder), end;
    for (; walk != end; ++walk) {
      const std::string name = walk->path().filename().string();
      if (walk->is_directory() && (name.front() == '.' || name == "__pycache__" ||
                                   name == "build" || name.ends_with(".egg-info"))) {
        walk.disable_recursion_pending();
      } else if (walk->is_regular_file() && name.front() != '.' && text_file(walk->path())) {
        add(root, walk->path(), &files);
      }
    }
  }
  std::sort(files.begin(), files.end(),
            [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  return files;
}

bool ends_with_any(const std::string& path, std::initializer_list<const char*> endings) {
  return std::any_of(endings.begin(), endings.end(),
                     [&](const char* ending) { return path.ends_with(ending); });
}

}  // namespace

const std::vector<SourceFile>& source_files() {
  static const std::vector<SourceFile> files = read_tree();
  return files;
}

bool is_header(const SourceFile& file) {
  return ends_with_any(file.path, {".h", ".cuh"});
}

bool is_cpp(const SourceFile& file) {
  return is_header(file) || ends_with_any(file.path, {".c", ".cc", ".cpp", ".cu", ".inc"});
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> all;
  size_t begin = 0;
  while (begin < text.size()) {
    size_t end = text.find('\n', begin);
    if (end == std::string::npos) end = text.size();
    all.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return all;
}

std::vector<Include> includes(const SourceFile& file) {
  std::vector<Include> found;
  int number = 0;
  for (const std::string& line : lines(file.text)) {
    ++number;
    size_t at = line.find_first_not_of(" \t");
    if (at == std::string::npos || line[at] != '#') continue;
    at = line.find_first_not_of(" \t", at + 1);
    if (at == std::string::npos || line.compare(at, 7, "include") != 0) continue;
    at = line.find_first_of("\"<", at);
    if (at == std::string::npos) continue;
    const bool system = line[at] == '<';
    const size_t end = line.find(system ? '>' : '"', at + 1);
    if (end == std::string::npos) continue;
    found.push_back({number, line.substr(at + 1, end - at - 1), system});
  }
  return found;
}

}  // namespace moejit::style
