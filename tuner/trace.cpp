#include "tuner/trace.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/fs.h"
#include "base/hash.h"
#include "base/safetensors.h"

namespace moejit::internal {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 30;
constexpr int32_t kMostTopK = 32;  // as MoeConfig

class Reader {
 public:
  Reader(const std::string& path, RoutingSpec* spec) : path_(path), spec_(spec) {}

  Status read() {
    auto text = read_file(path_, kMostBytes);
    if (!text.ok()) {
      return {StatusCode::kInvalidArgument, "routing trace: " + text.status().message()};
    }
    if (text->rfind("\xef\xbb\xbf", 0) == 0) text->erase(0, 3);  // some editors' mark of UTF-8
    const size_t begin = text->find_first_not_of(" \t\r\n");
    if (begin != std::string::npos && (*text)[begin] == '{') {
      MOEJIT_RETURN_IF_ERROR(counts(*text));
    } else if (text->size() > 8 && (*text)[8] == '{') {  // behind the length of the header
      MOEJIT_RETURN_IF_ERROR(tensors(*text));
    } else {
      MOEJIT_RETURN_IF_ERROR(lines(*text));
    }
    Sha256 hash;
    hash.field("moejit trace 1");
    hash.field(std::to_string(spec_->ids_per_token));
    hash.field(
        {reinterpret_cast<const char*>(spec_->ids.data()), spec_->ids.size() * sizeof(int32_t)});
    hash.field({reinterpret_cast<const char*>(spec_->popularity.data()),
                spec_->popularity.size() * sizeof(double)});
    const auto digest = hash.finish();
    spec_->name = "trace:" + to_hex(digest.data(), 8);
    return {};
  }

 private:
  Status bad(const std::string& what) const {
    return {StatusCode::kInvalidArgument, "routing trace " + path_ + ": " + what};
  }

  Status counts(const std::string& text) {
    const auto json = nlohmann::json::parse(text, nullptr, false);
    if (!json.is_object() || !json.contains("counts") || !json["counts"].is_array()) {
      return bad("must be a JSON object with an array \"counts\", one number per expert");
    }
    double sum = 0;
    for (const auto& item : json["counts"]) {
      if (!item.is_number() || !(item.get<double>() >= 0) || !std::isfinite(item.get<double>())) {
        return bad("counts[" + std::to_string(spec_->popularity.size()) +
                   "]: must be a finite number >= 0");
      }
      spec_->popularity.push_back(item.get<double>());
      sum += spec_->popularity.back();
    }
    if (!(sum > 0)) return bad("counts: at least one must be above 0");
    return {};
  }

  Status tensors(const std::string& text) {
    const auto file = SafeTensors::parse(text);
    if (!file.ok()) return bad(file.status().message());
    const auto ids = file->find("topk_ids");
    if (!ids.ok()) return bad(ids.status().message());
    const bool wide = ids->type == TensorType::kI64;
    if ((!wide && ids->type != TensorType::kI32) || ids->shape.size() != 2 || ids->shape[1] < 1 ||
        ids->shape[1] > kMostTopK) {
      return bad("topk_ids is " + describe(*ids) + ": must be I32 or I64 [tokens, 1 to 32]");
    }
    if (ids->shape[0] < 1) return bad("holds no token");
    const int64_t count = ids->shape[0] * ids->shape[1];
    spec_->ids_per_token = static_cast<int32_t>(ids->shape[1]);
    spec_->ids.resize(static_cast<size_t>(count));
    if (!wide) {
      std::memcpy(spec_->ids.data(), ids->data, static_cast<size_t>(count) * sizeof(int32_t));
      return {};
    }
    for (int64_t i = 0; i < count; ++i) {
      int64_t id = 0;
      std::memcpy(&id, static_cast<const char*>(ids->data) + i * 8, 8);
      if (id < INT32_MIN || id > INT32_MAX) {
        return bad("topk_ids: token " + std::to_string(i / ids->shape[1]) + ", id " +
                   std::to_string(i % ids->shape[1]) + " = " + std::to_string(id) +
                   ": must be the id of an expert");
      }
      spec_->ids[static_cast<size_t>(i)] = static_cast<int32_t>(id);
    }
    return {};
  }

  Status lines(const std::string& text) {
    int64_t number = 0;
    size_t at = 0;
    while (at < text.size()) {
      const size_t end = std::min(text.find('\n', at), text.size());
      ++number;
      const std::string_view line(text.data() + at, end - at);
      at = end + 1;
      MOEJIT_RETURN_IF_ERROR(one_line(line.substr(0, line.find('#')), number));
    }
    if (spec_->ids.empty()) return bad("holds no token");
    return {};
  }

  Status one_line(std::string_view line, int64_t number) {
    const auto where = [&] { return "line " + std::to_string(number) + ": "; };
    constexpr std::string_view kBetween = " \t\r,;";
    int32_t count = 0;
    while (true) {
      const size_t begin = line.find_first_not_of(kBetween);
      if (begin == std::string_view::npos) break;
      line.remove_prefix(begin);
      const std::string_view word = line.substr(0, line.find_first_of(kBetween));
      int32_t id = 0;
      const auto parsed = std::from_chars(word.data(), word.data() + word.size(), id);
      if (parsed.ec != std::errc() || parsed.ptr != word.data() + word.size()) {
        return bad(where() + "\"" + std::string(word.substr(0, 40)) +
                   "\": must be the id of an expert");
      }
      if (++count > kMostTopK) return bad(where() + "has more than 32 ids");
      spec_->ids.push_back(id);
      line.remove_prefix(word.size());
    }
    if (count == 0) return {};
    if (spec_->ids_per_token == 0) spec_->ids_per_token = count;
    if (count != spec_->ids_per_token) {
      return bad(where() + "has " + std::to_string(count) + " ids, the lines before " +
                 std::to_string(spec_->ids_per_token));
    }
    return {};
  }

  const std::string& path_;
  RoutingSpec* spec_;
};

}  // namespace

Status read_trace(const std::string& path, RoutingSpec* spec) {
  return Reader(path, spec).read();
}

}  // namespace moejit::internal
