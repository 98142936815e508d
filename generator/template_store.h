// The kernel templates, embedded in the library at build time.
#pragma once

#include <string>
#include <string_view>

#include "moejit/status.h"

namespace moejit::internal {

// The text of templates/<path> with each `#include "..."` of another template replaced, once, by
// that file's text; paths are relative to templates/. `#pragma once` lines are dropped. Asserts
// that the file exists: the names come from code.
std::string expand_template(std::string_view path);

// The same for several roots; a file included by two of them appears once.
std::string expand_templates(std::initializer_list<std::string_view> paths);

}  // namespace moejit::internal
