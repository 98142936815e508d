// Schedule::from_json: what is accepted survives a round trip unchanged.
#include "generator/schedule.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using moejit::internal::Schedule;
  const auto schedule = Schedule::from_json({reinterpret_cast<const char*>(data), size});
  if (!schedule.ok()) return 0;
  const std::string text = schedule->to_json();
  const auto again = Schedule::from_json(text);
  FUZZ_CHECK(again.ok());
  FUZZ_CHECK(*again == *schedule);
  FUZZ_CHECK(again->to_json() == text);
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  return {
      R"({"family":"cpu_moe","rows":4,"columns":64,"split":-1})",
      R"({"rows":2147483647,"family":"x_9","a":-2147483648})",
      R"({"family":"f","a\"b":1})",                  // a name that would break the text
      R"({"family":"f","a":18446744073709551615})",  // wraps to -1 where read as int64
      R"({"family":"f","a":1,"a":2})",
  };
}
