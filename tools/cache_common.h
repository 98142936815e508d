// What the verbs of `moejit cache` share.
#pragma once

#include <string>

#include "cache/inspect.h"
#include "tools/command.h"

namespace moejit::tools {

// --cache-dir, else the directory of the settings.
struct PlaceSelector {
  std::string directory;

  void declare(OptionSet& options);
  // kNotFound where neither names a directory.
  Result<internal::CachePlace> resolve() const;
  // The same for a verb that changes it: kInvalidArgument where MOEJIT_CACHE=ro.
  Result<internal::CachePlace> resolve_to_change() const;
};

// A place that a positional argument names.
internal::CachePlace place_at(const std::string& path);

// The whole key for programs, its first 12 digits for people unless -v.
std::string shown_key(const Context& context, const std::string& key);
// Canonical JSON of a layer, "E128 K8 ..." for people.
Cell layer_cell(const std::string& json);
// JSON where it is JSON, else text; "" is not known.
Cell json_or_text(const std::string& text);

}  // namespace moejit::tools
