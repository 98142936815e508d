// The project's own text files, for tests that read them.
#pragma once

#include <string>
#include <vector>

namespace moejit::style {

struct SourceFile {
  std::string path;    // "cache/store.h", relative to the checkout
  std::string folder;  // "cache"; "" at the top
  std::string text;
};

// Every tracked kind of file below the project's folders and at the top, sorted by path. Build
// trees and files that start with a dot are left out, except .ci and .clang-format.
const std::vector<SourceFile>& source_files();

bool is_cpp(const SourceFile& file);  // C, C++ or CUDA source or header
bool is_header(const SourceFile& file);

struct Include {
  int line = 0;
  std::string path;     // as written
  bool system = false;  // <...>
};
std::vector<Include> includes(const SourceFile& file);

std::vector<std::string> lines(const std::string& text);

}  // namespace moejit::style
