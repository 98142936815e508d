// Handles of the C ABI that free themselves.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "moejit/config.h"
#include "moejit/moejit_c.h"

namespace moejit_test {

struct ConfigDeleter {
  void operator()(moejit_config* config) const { moejit_config_destroy(config); }
};
struct KernelDeleter {
  void operator()(moejit_kernel* kernel) const { moejit_kernel_destroy(kernel); }
};
using Config = std::unique_ptr<moejit_config, ConfigDeleter>;
using Kernel = std::unique_ptr<moejit_kernel, KernelDeleter>;

inline Config config_of(const moejit::MoeConfig& config) {
  moejit_config* made = nullptr;
  EXPECT_EQ(moejit_config_from_json(config.to_json().c_str(), &made), MOEJIT_OK);
  return Config(made);
}

}  // namespace moejit_test
