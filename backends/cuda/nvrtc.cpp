#include "backends/cuda/nvrtc.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/dylib.h"
#include "base/hash.h"
#include "base/settings.h"

namespace moejit::internal::cuda {
namespace {

struct Program_;
using Program = Program_*;
constexpr int kOk = 0;

// Toolkits, and the packages nvidia-cuda-nvrtc of the Python that is in use.
std::vector<std::string> candidates() {
  std::vector<std::string> paths;
  if (!settings().nvrtc_path.empty()) return {settings().nvrtc_path};
  for (const char* name : {"libnvrtc.so.13", "libnvrtc.so.12"}) paths.push_back(name);
  std::vector<std::string> folders = {"/usr/local/cuda/lib64", "/usr/local/cuda-13.0/lib64",
                                      "/usr/local/cuda-12/lib64"};
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const char* root = std::getenv(variable))
      folders.insert(folders.begin(), std::string(root) + "/lib64");
  }
  std::vector<std::string> environments;
  if (const char* environment = std::getenv("VIRTUAL_ENV")) environments.push_back(environment);
  if (const char* environment = std::getenv("CONDA_PREFIX")) environments.push_back(environment);
  environments.push_back("/usr/local");
  environments.push_back("/usr");
  for (const std::string& environment : environments) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(environment + "/lib", error)) {
      const std::string name = entry.path().filename().string();
      if (name.rfind("python3", 0) != 0) continue;
      for (const char* packages : {"/site-packages", "/dist-packages"}) {
        for (const char* folder : {"/nvidia/cu13/lib", "/nvidia/cuda_nvrtc/lib"}) {
          folders.push_back(entry.path().string() + packages + folder);
        }
      }
    }
  }
  for (const std::string& folder : folders) {
    for (const char* name : {"/libnvrtc.so.13", "/libnvrtc.so.12"}) {
      std::error_code error;
      if (std::filesystem::exists(folder + name, error)) paths.push_back(folder + name);
    }
  }
  return paths;
}

// Size and both ends of the file, which hold its headers and section table: enough to tell builds
// apart without reading a hundred megabytes.
std::string file_digest(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return "unknown";
  Sha256 hash;
  std::vector<char> buffer(1 << 16);
  size_t count = std::fread(buffer.data(), 1, buffer.size(), file);
  hash.update(buffer.data(), count);
  std::fseek(file, 0, SEEK_END);
  const long size = std::ftell(file);
  hash.field(std::to_string(size));
  std::fseek(file,
             size > static_cast<long>(buffer.size()) ? -static_cast<long>(buffer.size()) : -size,
             SEEK_END);
  count = std::fread(buffer.data(), 1, buffer.size(), file);
  hash.update(buffer.data(), count);
  std::fclose(file);
  return to_hex(hash.finish().data(), 8);
}

// "sm_90a" -> 90, or -1.
int arch_number(const std::string& arch) {
  if (arch.rfind("sm_", 0) != 0) return -1;
  int number = 0;
  size_t i = 3;
  for (; i < arch.size() && arch[i] >= '0' && arch[i] <= '9'; ++i)
    number = number * 10 + (arch[i] - '0');
  return i > 3 && i + 1 >= arch.size() ? number : -1;
}

// The number before ` what`, searched from `from`; -1 where there is none.
int number_before(const std::string& line, const std::string& what) {
  const size_t at = line.find(what);
  if (at == std::string::npos || at == 0) return -1;
  size_t begin = at;
  while (begin > 0 && line[begin - 1] >= '0' && line[begin - 1] <= '9') --begin;
  return begin == at ? -1 : std::atoi(line.substr(begin, at - begin).c_str());
}

}  // namespace

struct Nvrtc::Functions {
  int (*version)(int*, int*);
  const char* (*error_string)(int);
  int (*num_archs)(int*);
  int (*archs)(int*);
  int (*create)(Program*, const char*, const char*, int, const char* const*, const char* const*);
  int (*destroy)(Program*);
  int (*compile)(Program, int, const char* const*);
  int (*log_size)(Program, size_t*);
  int (*log)(Program, char*);
  int (*cubin_size)(Program, size_t*);
  int (*cubin)(Program, char*);
  int (*ptx_size)(Program, size_t*);
  int (*ptx)(Program, char*);
};

PtxasReport parse_ptxas_report(const std::string& log) {
  PtxasReport report;
  for (size_t begin = 0; begin < log.size();) {
    size_t end = log.find('\n', begin);
    if (end == std::string::npos) end = log.size();
    const std::string line = log.substr(begin, end - begin);
    begin = end + 1;
    report.registers = std::max(report.registers, number_before(line, " registers"));
    const int stores = number_before(line, " bytes spill stores");
    const int loads = number_before(line, " bytes spill loads");
    if (stores >= 0 && loads >= 0)
      report.spill_bytes = std::max(report.spill_bytes, stores + loads);
    report.shared_bytes = std::max(report.shared_bytes, number_before(line, " bytes smem"));
    if (line.find("C7510") != std::string::npos) report.serialized_wgmma = true;
    if (line.find("C7508") != std::string::npos) report.ignored_setmaxnreg = true;
  }
  return report;
}

Result<const Nvrtc*> Nvrtc::open() {
  Result<Dylib> library = Dylib::open_first(candidates());
  if (!library.ok()) {
    return Status(
        StatusCode::kUnavailable,
        "NVRTC not found (libnvrtc.so.13 or .12): install the CUDA toolkit or `pip install "
        "nvidia-cuda-nvrtc`, or set MOEJIT_NVRTC_PATH to the library",
        library.status().message());
  }
  auto* nvrtc = new Nvrtc;
  auto* api = new Functions{};
  nvrtc->api_ = api;
  nvrtc->path_ = library->path();
  const bool complete = library->find("nvrtcVersion", api->version) &&
                        library->find("nvrtcGetErrorString", api->error_string) &&
                        library->find("nvrtcGetNumSupportedArchs", api->num_archs) &&
                        library->find("nvrtcGetSupportedArchs", api->archs) &&
                        library->find("nvrtcCreateProgram", api->create) &&
                        library->find("nvrtcDestroyProgram", api->destroy) &&
                        library->find("nvrtcCompileProgram", api->compile) &&
                        library->find("nvrtcGetProgramLogSize", api->log_size) &&
                        library->find("nvrtcGetProgramLog", api->log) &&
                        library->find("nvrtcGetCUBINSize", api->cubin_size) &&
                        library->find("nvrtcGetCUBIN", api->cubin) &&
                        library->find("nvrtcGetPTXSize", api->ptx_size) &&
                        library->find("nvrtcGetPTX", api->ptx);
  if (!complete || api->version(&nvrtc->major_, &nvrtc->minor_) != kOk || nvrtc->major_ < 12) {
    return Status(
        StatusCode::kUnavailable,
        "NVRTC at " + nvrtc->path_ +
            " is older than 12.0; install CUDA 12 or 13, or `pip install nvidia-cuda-nvrtc`");
  }
  int count = 0;
  if (api->num_archs(&count) == kOk && count > 0) {
    nvrtc->archs_.resize(static_cast<size_t>(count));
    api->archs(nvrtc->archs_.data());
  }
  nvrtc->identity_ = "nvrtc " + std::to_string(nvrtc->major_) + "." +
                     std::to_string(nvrtc->minor_) + " " + file_digest(nvrtc->path_);
  return static_cast<const Nvrtc*>(nvrtc);
}

const Result<const Nvrtc*>& Nvrtc::get() {
  static const auto* const kNvrtc = new Result<const Nvrtc*>(open());
  return *kNvrtc;
}

std::string Nvrtc::why_not(const std::string& arch) const {
  const int number = arch_number(arch);
  if (number >= 0 && std::find(archs_.begin(), archs_.end(), number) != archs_.end()) return "";
  std::string list;
  for (int a : archs_) list += (list.empty() ? "" : ", ") + std::to_string(a);
  return "NVRTC " + std::to_string(major_) + "." + std::to_string(minor_) + " cannot compile for " +
         arch + " (it knows " + list +
         "); install a newer CUDA toolkit or `pip install -U nvidia-cuda-nvrtc`";
}

Result<CompileOutput> Nvrtc::compile(const std::string& name, const std::string& text,
                                     const std::string& arch,
                                     const std::vector<std::string>& options, bool want_ptx) const {
  if (std::string why = why_not(arch); !why.empty())
    return Status(StatusCode::kUnsupported, std::move(why));
  const auto begin = std::chrono::steady_clock::now();
  Program program = nullptr;
  if (const int result = api_->create(&program, text.c_str(), name.c_str(), 0, nullptr, nullptr);
      result != kOk) {
    return Status(StatusCode::kCompileError,
                  std::string("nvrtcCreateProgram: ") + api_->error_string(result));
  }
  // Functions are device code without saying so; the report of ptxas goes to the log; NVRTC's own
  // disk cache would answer without that report.
  std::vector<std::string> all = {"-arch=" + arch, "-std=c++17", "-default-device",
                                  "--ptxas-options=-v", "-diag-suppress=177"};
  if (major_ >= 13) all.push_back("--no-cache");
  all.insert(all.end(), options.begin(), options.end());
  std::vector<const char*> pointers;
  for (const std::string& option : all) pointers.push_back(option.c_str());
  const int result = api_->compile(program, static_cast<int>(pointers.size()), pointers.data());
  CompileOutput output;
  size_t size = 0;
  if (api_->log_size(program, &size) == kOk && size > 1) {
    output.log.resize(size);
    api_->log(program, output.log.data());
    std::erase(output.log, '\0');  // its end, and of a part of NVRTC 13 within
  }
  Status status;
  if (result != kOk) {
    status = {StatusCode::kCompileError,
              name + ": NVRTC " + std::to_string(major_) + "." + std::to_string(minor_) + " for " +
                  arch + ": " + api_->error_string(result),
              output.log};
  } else if (api_->cubin_size(program, &size) == kOk && size > 0) {
    output.cubin.resize(size);
    api_->cubin(program, reinterpret_cast<char*>(output.cubin.data()));
    if (want_ptx && api_->ptx_size(program, &size) == kOk && size > 1) {
      output.ptx.resize(size);
      api_->ptx(program, output.ptx.data());
      output.ptx.resize(size - 1);
    }
  } else {
    status = {StatusCode::kCompileError, name + ": NVRTC made no cubin for " + arch, output.log};
  }
  api_->destroy(&program);
  if (!status.ok()) return status;
  output.milliseconds =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  return output;
}

}  // namespace moejit::internal::cuda
