// What the opaque handles of the C ABI are, for those of its files that share one.
#pragma once

#include <string>

#include "moejit/moejit.h"

struct moejit_config {
  moejit::MoeConfig config;
  std::string json;
};

struct moejit_kernel {
  moejit::Kernel kernel;
  std::string config_json;
};
