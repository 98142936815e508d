// The choice among finalists, from samples that were taken in turn.
#pragma once

#include <string>
#include <vector>

namespace moejit::internal {

struct Finalist {
  std::vector<double> seconds;  // one a round, the same rounds for every finalist
  bool is_incumbent = false, is_default = false;
  std::string name;        // canonical JSON: the last word among equals
  int distance = 0;        // parameters in which it differs from its family's default
  bool is_steady = false;  // a candidate of every tune
};

// How much slower than the best is still its equal. Larger than what a few dozen rounds leave of
// the noise, and not the noise of the day itself, which would let the day choose.
inline constexpr double kEqual = 0.02;
// On a GPU, whose launches vary by some tenths of a percent from round to round: 0.5 % times
// sqrt(24 / rounds), 0.5 % at least, and 0.3 us, the clock's steps, of the best's `seconds`; kEqual
// at most, which it is up to 20 us.
double equal_on_gpu(double seconds, size_t rounds);

// Rounds of the same routing, one after the other, of which a finalist's least counts: another
// program that takes the machine for a moment falls into some of them, seldom into all.
inline constexpr size_t kBlock = 3;

// Index of the winner. Times are compared within their block of rounds, so that a machine that
// slows down slows everybody. Among those that are slower than the best by `equal` at most the
// incumbent stays, else the default, else who is a candidate in every tune, else who differs from
// its family's default in the fewest parameters, else the first by name: nothing that luck or a
// device's measured limits could change. REQUIRES: at least one finalist, each with the same
// number of samples, at least one.
size_t choose_winner(const std::vector<Finalist>& finalists, double equal = kEqual);

// Whether more rounds would hardly change choose_winner(): no finalist that would matter is so
// close to the edge of the band that noise may carry it over.
bool is_clear(const std::vector<Finalist>& finalists, double equal = kEqual);

// Which finalists lie beyond the band by more than the noise.
std::vector<bool> clearly_slower(const std::vector<Finalist>& finalists, double equal = kEqual);

}  // namespace moejit::internal
