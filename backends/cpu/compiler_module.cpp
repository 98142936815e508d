#include "backends/cpu/compiler_module.h"

#include <unistd.h>

#include <map>
#include <mutex>

#include "backends/cpu/elf_image.h"
#include "backends/cpu/module/module_abi.h"
#include "base/settings.h"

namespace moejit::internal {
namespace {

constexpr const char* kFile = "libmoejit_cpu.so";
constexpr const char* kPackages = "libclang-cpp19 and libllvm19";

std::vector<std::string> candidates() {
  static const char kHere = 0;
  std::vector<std::string> paths;
  const std::string here = directory_of_code(&kHere);
  if (here.empty()) return paths;
  for (const char* relative : {"/", "/moejit/", "/../lib/moejit/", "/../lib64/moejit/",
                               "/../lib/x86_64-linux-gnu/moejit/"}) {
    paths.push_back(here + relative + kFile);
  }
  // A build tree: the library is at its top, tools and tests are one or two folders down.
  std::string up = here;
  for (int i = 0; i < 4 && !up.empty(); ++i) {
    paths.push_back(up + "/backends/cpu/module/" + kFile);
    up.resize(up.rfind('/'));
  }
  return paths;
}

// The request and the arrays of pointers that it holds.
class Request {
 public:
  Request(const HostSource& source, MoejitCpuOutput output) {
    fill(options_, source.options);
    fill(exports_, source.exports);
    fill(imports_, source.imports);
    request_.name = source.name.c_str();
    request_.text = source.text->data();
    request_.text_size = source.text->size();
    request_.arch = source.arch.c_str();
    request_.options = options_.data();
    request_.num_options = static_cast<uint32_t>(options_.size());
    request_.exports = exports_.data();
    request_.num_exports = static_cast<uint32_t>(exports_.size());
    request_.imports = imports_.data();
    request_.num_imports = static_cast<uint32_t>(imports_.size());
    request_.output = output;
  }
  Request(const Request&) = delete;
  const MoejitCpuRequest* get() const { return &request_; }

 private:
  static void fill(std::vector<const char*>& to, const std::vector<std::string>& from) {
    for (const std::string& text : from) to.push_back(text.c_str());
  }
  std::vector<const char*> options_, exports_, imports_;
  MoejitCpuRequest request_{};
};

class Answer {
 public:
  Answer(const MoejitCpuModule* module, const Request& request) : module_(module) {
    module_->compile(request.get(), &result_);
  }
  ~Answer() { module_->release(&result_); }
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;
  const MoejitCpuResult* operator->() const { return &result_; }

  Status status(const std::string& name) const {
    StatusCode code = StatusCode::kInternal;
    switch (result_.code) {
      case MOEJIT_CPU_OK:
        return {};
      case MOEJIT_CPU_INVALID:
        code = StatusCode::kInvalidArgument;
        break;
      case MOEJIT_CPU_REFUSED:
      case MOEJIT_CPU_CRASHED:
        code = StatusCode::kCompileError;
        break;
      default:
        break;
    }
    return {code, name + ": " + result_.message, result_.log};
  }

 private:
  const MoejitCpuModule* module_;
  MoejitCpuResult result_{};
};

}  // namespace

Result<const CompilerModule*> CompilerModule::open(const std::string& path) {
  Result<Dylib> library = Dylib::open(path);
  if (!library.ok()) {
    return Status(StatusCode::kUnavailable,
                  "the compiler of CPU kernels cannot be opened: " + library.status().message() +
                      "; it needs Clang 19 (Debian packages " + kPackages + ")");
  }
  const MoejitCpuModule* (*entry)(uint32_t) = nullptr;
  const MoejitCpuModule* module =
      library->find(MOEJIT_CPU_MODULE_ENTRY, entry) ? entry(MOEJIT_CPU_MODULE_ABI) : nullptr;
  if (module == nullptr) {
    return Status(StatusCode::kUnavailable,
                  path + " is not the compiler module of this version of moejit (interface " +
                      std::to_string(MOEJIT_CPU_MODULE_ABI) + "): install the two together");
  }
  return new CompilerModule(*library, module);  // lives for the process, as the library does
}

Result<const CompilerModule*> CompilerModule::get() {
  return get(settings().cpu_module);
}

Result<const CompilerModule*> CompilerModule::get(const std::string& wanted) {
  static std::mutex mutex;
  static auto* const kOpened = new std::map<std::string, const CompilerModule*>;
  std::lock_guard<std::mutex> lock(mutex);
  if (const auto found = kOpened->find(wanted); found != kOpened->end()) return found->second;

  std::string path = wanted;
  if (path.empty()) {
    const std::vector<std::string> paths = candidates();
    for (const std::string& candidate : paths) {
      if (access(candidate.c_str(), R_OK) != 0) continue;
      path = candidate;
      break;
    }
    if (path.empty()) {
      return Status(StatusCode::kUnavailable,
                    std::string(kFile) + ", the compiler of CPU kernels, was not found" +
                        (paths.empty() ? "" : " (first looked for " + paths.front() + ")") +
                        ": install it with its libraries (Debian packages " + kPackages +
                        "), or set MOEJIT_CPU_MODULE to its path");
    }
  } else if (access(path.c_str(), R_OK) != 0) {
    return Status(StatusCode::kUnavailable,
                  "MOEJIT_CPU_MODULE = \"" + path + "\": no such file; it must be the path of " +
                      kFile + ", which needs Clang 19 (Debian packages " + kPackages + ")");
  }
  Result<const CompilerModule*> module = open(path);
  if (module.ok()) kOpened->emplace(wanted, *module);
  return module;
}

std::string CompilerModule::identity() const {
  return module_->identity();
}

Result<HostObject> CompilerModule::compile(const HostSource& source) const {
  Result<HostObject> object = compile_amdgpu(source);
  if (object.ok()) seal_image(object->bytes);
  return object;
}

Result<HostObject> CompilerModule::compile_amdgpu(const HostSource& source) const {
  const Request request(source, MOEJIT_CPU_SHARED_OBJECT);
  const Answer answer(module_, request);
  MOEJIT_RETURN_IF_ERROR(answer.status(source.name));
  HostObject object;
  object.bytes.assign(answer->bytes, answer->bytes + answer->size);
  object.log = answer->log;
  object.compile_ms = answer->compile_ms;
  object.link_ms = answer->link_ms;
  return object;
}

Result<std::string> CompilerModule::assembly(const HostSource& source) const {
  const Request request(source, MOEJIT_CPU_ASSEMBLY);
  const Answer answer(module_, request);
  MOEJIT_RETURN_IF_ERROR(answer.status(source.name));
  return std::string(reinterpret_cast<const char*>(answer->bytes), answer->size);
}

}  // namespace moejit::internal
