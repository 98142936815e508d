// Includes flow one way: docs/design.md, "Data flows one way". A new arrow is a decision about the
// architecture: it belongs in the table below and in that page, or nowhere.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "tests/style/source_tree.h"

namespace moejit::style {
namespace {

// What files of a folder may include besides themselves and include/: whole folders, or single
// headers.
const std::map<std::string, std::vector<std::string>>& allowed() {
  static const std::map<std::string, std::vector<std::string>> table = {
      {"include", {}},
      {"base", {}},
      {"generator", {"base/"}},
      {"cache", {"base/"}},
      {"backends",
       {"base/", "generator/kernel_source.h", "generator/target.h", "templates/abi.h",
        "templates/device/sim/runtime.h"}},
      {"tuner", {"base/", "generator/", "backends/backend.h"}},
      {"runtime", {"base/", "generator/", "backends/", "cache/", "tuner/", "templates/abi.h"}},
      {"tools",
       {"base/", "cache/inspect.h", "cache/signature.h", "backends/backend.h", "generator/family.h",
        "runtime/pin.h", "runtime/report.h", "runtime/trial_process.h"}},
      {"templates", {}},
  };
  return table;
}

bool may_include(const std::string& folder, const std::string& path) {
  if (path.starts_with(folder + "/")) return true;
  if (folder != "templates" && path.starts_with("moejit/")) return true;
  const auto& list = allowed().at(folder);
  return std::any_of(list.begin(), list.end(), [&](const std::string& entry) {
    return entry.back() == '/' ? path.starts_with(entry) : path == entry;
  });
}

// LLVM writes its own includes with quotes; where they may be is the business of a test below.
bool is_compiler(const std::string& path) {
  return path.starts_with("llvm/") || path.starts_with("clang/") || path.starts_with("lld/");
}

// A file beside the includer may be named without its folder; templates also name each other from
// the top of templates/, as the generator resolves them.
bool is_near(const SourceFile& file, const std::string& path) {
  const auto exists = [](const std::filesystem::path& wanted) {
    const std::string normal = wanted.lexically_normal().generic_string();
    return std::any_of(source_files().begin(), source_files().end(),
                       [&](const SourceFile& other) { return other.path == normal; });
  };
  const std::filesystem::path beside = std::filesystem::path(file.path).parent_path() / path;
  if (file.folder != "templates") return path.find("..") == std::string::npos && exists(beside);
  const bool inside = beside.lexically_normal().generic_string().starts_with("templates/");
  return (inside && exists(beside)) || exists(std::filesystem::path("templates") / path);
}

TEST(Include, FollowsTheLayers) {
  int checked = 0;
  for (const SourceFile& file : source_files()) {
    if (!is_cpp(file) || !allowed().contains(file.folder)) continue;
    for (const Include& include : includes(file)) {
      if (include.system || is_compiler(include.path)) continue;
      ++checked;
      EXPECT_TRUE(may_include(file.folder, include.path) || is_near(file, include.path))
          << file.path << ":" << include.line << ": " << file.folder << "/ may not include \""
          << include.path << "\"";
    }
  }
  EXPECT_GT(checked, 50) << "the tree was not found";
}

TEST(Include, NamesNoParentFolder) {
  for (const SourceFile& file : source_files()) {
    if (!is_cpp(file) || file.folder == "templates") continue;
    for (const Include& include : includes(file)) {
      EXPECT_EQ(include.path.find(".."), std::string::npos) << file.path << ":" << include.line;
    }
  }
}

// Third-party headers stay where one layer wraps them.
TEST(Include, KeepsThirdPartyHeadersInTheirPlace) {
  const auto home = [](const std::string& path) -> std::vector<std::string> {
    if (path.starts_with("CLI/")) return {"tools/main.cpp", "bench/gpu_moe/arguments.cpp"};
    if (path == "sqlite3.h") return {"cache/", "tests/", "bench/"};
    if (is_compiler(path)) return {"backends/cpu/module/", "tests/"};
    if (path.starts_with("gtest/") || path.starts_with("gmock/")) return {"tests/"};
    return {};
  };
  for (const SourceFile& file : source_files()) {
    if (!is_cpp(file)) continue;
    for (const Include& include : includes(file)) {
      const auto places = home(include.path);
      const bool fine = places.empty() ||
                        std::any_of(places.begin(), places.end(), [&](const std::string& place) {
                          return file.path.starts_with(place);
                        });
      EXPECT_TRUE(fine) << file.path << ":" << include.line << ": <" << include.path << ">";
      if (is_header(file)) {
        EXPECT_NE(include.path, "nlohmann/json.hpp")
            << file.path << ":" << include.line << ": headers take json_fwd.hpp";
      }
    }
  }
}

// Each of these costs every program that includes it 0.1 to 0.5 s to compile, or a static
// initialiser.
TEST(Include, LeavesOutExpensiveStandardHeaders) {
  for (const SourceFile& file : source_files()) {
    if (!is_cpp(file) || file.folder == "tests" || file.folder == "examples") continue;
    for (const Include& include : includes(file)) {
      EXPECT_NE(include.path, "iostream") << file.path << ":" << include.line;
      EXPECT_NE(include.path, "regex") << file.path << ":" << include.line;
    }
  }
}

// Generated text must compile under NVRTC and an in-process Clang, which have no headers.
TEST(Include, TemplatesAreSelfContained) {
  for (const SourceFile& file : source_files()) {
    if (file.folder != "templates") continue;
    for (const Include& include : includes(file)) {
      EXPECT_FALSE(include.system) << file.path << ":" << include.line;
    }
  }
}

TEST(Include, PublicHeadersNeedOnlyTheStandardLibrary) {
  for (const SourceFile& file : source_files()) {
    if (file.folder != "include") continue;
    for (const Include& include : includes(file)) {
      EXPECT_TRUE(include.system ? include.path.find('/') == std::string::npos
                                 : include.path.starts_with("moejit/"))
          << file.path << ":" << include.line << ": " << include.path;
    }
  }
}

}  // namespace
}  // namespace moejit::style
