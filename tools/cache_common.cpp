#include "tools/cache_common.h"

#include "base/settings.h"
#include "moejit/config.h"
#include "tools/select.h"

namespace moejit::tools {

void PlaceSelector::declare(OptionSet& options) {
  options.value(
      "--cache-dir", "DIR", &directory,
      "Directory of the cache, or a pack where it is only read; default: MOEJIT_CACHE_DIR");
}

internal::CachePlace place_at(const std::string& path) {
  const internal::Settings& settings = internal::settings();
  return {path, settings.cache_allow_shared, settings.cache_allow_network};
}

Result<internal::CachePlace> PlaceSelector::resolve() const {
  const internal::Settings& settings = internal::settings();
  if (!directory.empty()) return place_at(directory);
  if (settings.cache_dir.empty()) return Status(StatusCode::kNotFound, settings.cache_dir_reason);
  return place_at(settings.cache_dir);
}

Result<internal::CachePlace> PlaceSelector::resolve_to_change() const {
  if (internal::settings().cache == internal::CacheMode::kReadOnly)
    return invalid_argument(
        "MOEJIT_CACHE = \"ro\": the cache is only read; must be rw to change it");
  return resolve();
}

std::string shown_key(const Context& context, const std::string& key) {
  return context.for_people() && context.verbosity < 1 ? key.substr(0, 12) : key;
}

Cell layer_cell(const std::string& json) {
  const auto config = MoeConfig::from_json(json);
  if (!config.ok()) return json_or_text(json);
  return internal::JsonText{json, short_name(*config)};
}

// The cache holds canonical JSON only; the check keeps damaged text from breaking the output.
Cell json_or_text(const std::string& text) {
  if (text.empty()) return {};
  const bool braces = text.front() == '{' && text.back() == '}';
  if (braces) return internal::JsonText{text, ""};
  return text;
}

}  // namespace moejit::tools
