// The choice among finalists, from samples that were taken in turn.
#pragma once

#include <string>
#include <vector>

namespace moejit::internal {

struct Finalist {
  std::vector<double> seconds;  // one a round, the same rounds for every finalist
  bool is_incumbent = false, is_default = false;
  std::string name;  // canonical JSON: the last word among equals
};

// Index of the winner. Times are compared within their round, so that a machine that slows down
// slows everybody. Whoever is slower than the best by less than the noise (at least 1.5 %, at most
// 3 %) is its equal; among equals the incumbent stays, else the default, else the first by name:
// nothing that luck or a device's measured limits could change. REQUIRES: at least one finalist,
// each with the same number of samples, at least one.
size_t choose_winner(const std::vector<Finalist>& finalists);

}  // namespace moejit::internal
