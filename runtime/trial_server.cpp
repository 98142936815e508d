// The child's side of trial_process.h.
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <thread>

#include "generator/family.h"
#include "moejit/moejit.h"
#include "runtime/library.h"
#include "runtime/trial_process.h"
#include "runtime/trial_wire.h"

namespace moejit::internal {
namespace {

using Json = nlohmann::json;

class Server {
 public:
  explicit Server(const std::function<void(const Schedule&)>& before) : before_(before) {}

  Json answer(const Frame& frame) {
    Json reply = Json::object();
    const Status status = [&]() -> Status {
      try {
        const Json request = Json::parse(frame.head);
        return serve(request, frame.body, &reply);
      } catch (const std::exception& error) {
        return {StatusCode::kInternal, error.what()};
      }
    }();
    reply["ok"] = status.ok();
    if (!status.ok()) {
      reply["code"] = static_cast<int>(status.code());
      reply["message"] = status.message();
    }
    return reply;
  }

 private:
  Status serve(const Json& request, const std::vector<uint8_t>& body, Json* reply) {
    const std::string op = request.at("op");
    if (op == "open") return open(request);
    if (lab_ == nullptr) return invalid_argument("op = " + op + ": before open");
    if (op == "enter") {
      schedules_.clear();
      return lab_->enter({.tokens = request.at("tokens"),
                          .num_routings = request.at("num_routings"),
                          .seed = request.at("seed"),
                          .check_operations = request.at("check_operations")});
    }
    if (op == "add") return add(request, body, reply);
    const int kernel = request.at("kernel");
    if (kernel < 0 || kernel >= static_cast<int>(schedules_.size())) {
      return invalid_argument("kernel = " + std::to_string(kernel) + ": was not added");
    }
    if (before_) before_(schedules_[static_cast<size_t>(kernel)]);
    if (op == "check") {
      const auto checked = lab_->check(kernel, 0);
      if (!checked.ok()) return checked.status();
      (*reply)["error"] = checked->error;  // infinity becomes null
      (*reply)["problem"] = checked->problem;
      return {};
    }
    if (op != "measure") return invalid_argument("op = " + op + ": is not known");
    const auto seconds =
        lab_->measure(kernel, request.at("warmup"), request.at("first"), request.at("samples"), 0);
    if (!seconds.ok()) return seconds.status();
    (*reply)["seconds"] = *seconds;
    return {};
  }

  Status open(const Json& request) {
    auto device = open_device(request.at("device").get<std::string>(), request.at("num_threads"));
    if (!device.ok()) return device.status();
    device_ = *device;
    const std::string mine = trial_protocol(*device_);
    if (request.at("protocol") != mine) {
      return {StatusCode::kUnavailable, "the helper is of another version of moejit (" + mine +
                                            " and not " +
                                            request.at("protocol").get<std::string>() + ")"};
    }
    auto config = MoeConfig::from_json(request.at("config").get<std::string>());
    if (!config.ok()) return config.status();
    config_ = *config;
    auto routing = RoutingSpec::parse(request.at("routing").get<std::string>());
    if (!routing.ok()) return routing.status();
    lab_ = make_local_lab(*device_, config_, *routing);
    return {};
  }

  // The text is made here once more: it is the same for the same schedule, and shorter to name.
  Status add(const Json& request, const std::vector<uint8_t>& body, Json* reply) {
    auto schedule = Schedule::from_json(request.at("schedule").get<std::string>());
    if (!schedule.ok()) return schedule.status();
    const Family* family = find_family(schedule->family);
    if (family == nullptr || family->why_not(config_, device_->info().target, *schedule)) {
      return invalid_argument("schedule " + schedule->to_json() + ": is not legal here");
    }
    BuiltKernel kernel;
    kernel.source = family->emit(config_, device_->info().target, *schedule);
    Binary binary;
    binary.format = request.at("format");
    binary.arch = request.at("arch");
    binary.compiler = request.at("compiler");
    binary.bytes = body;
    kernel.binary = std::make_shared<Binary>(std::move(binary));
    auto id = lab_->add(kernel, *schedule);
    if (!id.ok()) return id.status();
    schedules_.push_back(*schedule);
    (*reply)["id"] = *id;
    return {};
  }

  const std::function<void(const Schedule&)>& before_;
  const Device* device_ = nullptr;
  MoeConfig config_;
  std::unique_ptr<Lab> lab_;
  std::vector<Schedule> schedules_;
};

// Ends the process when the tuner's end of the socket closes, also amid a launch that never
// returns.
void follow_parent(int fd) {
  std::thread([fd] {
    pollfd wait{fd, POLLRDHUP, 0};
    while (true) {
      const int ready = ::poll(&wait, 1, -1);
      if (ready > 0) ::_exit(0);
    }
  }).detach();
}

}  // namespace

std::string trial_protocol(const Device& device) {
  return std::string(version()) + " " + generator_digest(device.info().target);
}

int serve_trials(int fd, const std::function<void(const Schedule&)>& before) {
  ::signal(SIGINT, SIG_IGN);
  follow_parent(fd);
  Server server(before);
  Frame request;
  while (receive_frame(fd, &request) == WireResult::kOk) {
    const Json reply = server.answer(request);
    if (send_frame(fd, {reply.dump(-1, ' ', false, Json::error_handler_t::replace), {}}) !=
        WireResult::kOk) {
      break;
    }
  }
  return 0;
}

}  // namespace moejit::internal
