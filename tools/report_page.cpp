#include "tools/report_page.h"

#include <utility>

#include "base/embedded.h"

namespace moejit::tools {

std::string report_html(const internal::Report& report) {
  std::string page(internal::embedded_file("data/report/page.html"));
  // "</script>" inside a string would end the element, "<!--" would hide its end.
  std::string data = internal::report_json(report), safe;
  for (char c : data) {
    if (c == '<') {
      safe += "\\u003c";
    } else {
      safe += c;
    }
  }
  const std::pair<const char*, std::string> parts[] = {
      {"/*STYLE*/", std::string(internal::embedded_file("data/report/page.css"))},
      {"/*SCRIPT*/", std::string(internal::embedded_file("data/report/page.js"))},
      {"/*DATA*/", std::move(safe)}};
  for (const auto& [mark, text] : parts) {
    const size_t at = page.find(mark);
    if (at != std::string::npos) page.replace(at, std::string(mark).size(), text);
  }
  return page;
}

}  // namespace moejit::tools
