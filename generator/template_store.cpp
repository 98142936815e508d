#include "generator/template_store.h"

#include <cassert>
#include <set>

#include "base/embedded.h"

namespace moejit::internal {
namespace {

// Include paths are relative to templates/ or to the including file's folder; the editor needs the
// latter.
std::string resolve(std::string_view from, std::string_view include) {
  const auto exists = [](const std::string& path) {
    return embedded_file("templates/" + path).data() != nullptr;
  };
  std::string direct(include);
  if (exists(direct)) return direct;
  std::string folder(
      from.substr(0, from.rfind('/') == std::string_view::npos ? 0 : from.rfind('/')));
  while (direct.rfind("../", 0) == 0) {
    direct = direct.substr(3);
    const size_t slash = folder.rfind('/');
    folder = slash == std::string::npos ? "" : folder.substr(0, slash);
  }
  return folder.empty() ? direct : folder + "/" + direct;
}

void expand(std::string_view path, std::set<std::string>* done, std::string* out) {
  if (!done->insert(std::string(path)).second) return;
  const std::string_view text = embedded_file("templates/" + std::string(path));
  assert(text.data() != nullptr && "unknown template");
  for (size_t begin = 0; begin < text.size();) {
    size_t end = text.find('\n', begin);
    if (end == std::string_view::npos) end = text.size();
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line == "#pragma once") continue;
    constexpr std::string_view kInclude = "#include \"";
    if (line.substr(0, kInclude.size()) == kInclude) {
      const std::string_view name =
          line.substr(kInclude.size(), line.find('"', kInclude.size()) - kInclude.size());
      // The stand-in constants are for editors; generated text has the real ones in front.
      if (name.find("config_example.h") == std::string_view::npos) {
        expand(resolve(path, name), done, out);
      }
      continue;
    }
    out->append(line);
    out->push_back('\n');
  }
}

}  // namespace

std::string expand_template(std::string_view path) {
  return expand_templates({path});
}

std::string expand_templates(std::initializer_list<std::string_view> paths) {
  std::string out;
  std::set<std::string> done;
  for (std::string_view path : paths) expand(path, &done, &out);
  return out;
}

}  // namespace moejit::internal
