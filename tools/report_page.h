// The page of `moejit report`.
#pragma once

#include <string>

#include "runtime/report.h"

namespace moejit::tools {

// One self-contained page: styles, script and data inside, no reference to anything else.
std::string report_html(const internal::Report& report);

}  // namespace moejit::tools
