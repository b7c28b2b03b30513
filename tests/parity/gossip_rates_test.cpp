// How fast averages spread on a ring, with and without acceleration, against theory: what the
// paper claims, on the algorithm itself in sim. Edges have Poisson clocks, as in its section 3.
#include <doctest/doctest.h>

#include <cmath>
#include <numbers>

#include "tests/parity/gossip_run.hpp"

namespace orrery {
namespace {

Drift slow_mode(int workers) {
  Drift d;
  for (int i = 0; i < workers; ++i)
    d.drift.push_back(static_cast<float>(std::cos(2 * std::numbers::pi * i / workers)));
  return d;
}

// By step, the mean over workers and seeds of the squared distance from the workers' mean.
std::vector<double> consensus(const std::string& algorithm, int workers, std::int64_t steps,
                              int seeds) {
  std::vector<double> squares(static_cast<std::size_t>(steps));
  for (int seed = 1; seed <= seeds; ++seed) {
    const AlgorithmCase c = drifting(algorithm, slow_mode(workers), steps);
    const WorldResult result = run_in_sim(swift(c, static_cast<std::uint64_t>(seed)), training_of(c));
    REQUIRE_MESSAGE(!result.error, why(result));
    const std::vector<std::vector<double>> at = places(result);
    for (std::size_t t = 0; t < squares.size(); ++t) {
      double mean = 0, square = 0;
      for (const auto& place : at) {
        const double x = place.at(std::min(t, place.size() - 1));
        mean += x / workers;
        square += x * x / workers;
      }
      squares[t] += (square - mean * mean) / seeds;
    }
  }
  return squares;
}

const std::string poisson = ", graph: ring, pairing: poisson, final_average: false, ";
const std::string constant = "optimizer: {name: sgd, lr: 1}}";
// Only the first gradient moves x: after it, the rate is 0.
const std::string once = "optimizer: {name: sgd, lr: 2, cosine: 2}}";

// e-fold per unit of time, of what is left of the squared consensus, from a regression of its
// logarithm over [from, to).
double decay(const std::vector<double>& squares, std::size_t from, std::size_t to) {
  double n = 0, st = 0, sy = 0, stt = 0, sty = 0;
  for (std::size_t t = from; t < to; ++t) {
    const double x = static_cast<double>(t), y = std::log(squares[t]);
    n += 1, st += x, sy += y, stt += x * x, sty += x * y;
  }
  return -(n * sty - st * sy) / (n * stt - st * st);
}

double stationary(const std::vector<double>& squares) {
  const std::size_t from = squares.size() / 2;
  double sum = 0;
  for (std::size_t t = from; t < squares.size(); ++t) sum += squares[t];
  return sum / static_cast<double>(squares.size() - from);
}

}  // namespace

TEST_CASE("explore") {
  for (const int n : {8, 16, 32, 64}) {
    const Graph ring("ring", n);
    const double chi1 = ring.connectivity().chi1, chi2 = ring.connectivity().chi2;
    const auto length = static_cast<std::int64_t>(4 * chi1 + 20);
    for (const std::string pairing : {"poisson", "available"}) {
      const std::string options =
          ", graph: ring, final_average: false, pairing: " + pairing + ", ";
      const auto p = consensus("{name: ad-psgd" + options + once, n, length, 4);
      const auto a = consensus("{name: a2cid2" + options + once, n, length, 4);
      const auto until = [](const std::vector<double>& s) {
        std::size_t t = 3;
        while (t < s.size() && s[t] > s[2] * 1e-6) ++t;
        return t;
      };
      const auto dp = consensus("{name: ad-psgd" + options + constant, n, 3 * length, 2);
      const auto da = consensus("{name: a2cid2" + options + constant, n, 3 * length, 2);
      MESSAGE(n << " " << pairing << " plain " << decay(p, 3, until(p)) << " (" << 1 / chi1 << ") acc "
                << decay(a, 3, until(a)) << " (" << 1 / std::sqrt(chi1 * chi2) << ") until " << until(p) << " " << until(a) << " drift "
                << stationary(dp) << " " << stationary(da) << " rms ratio "
                << std::sqrt(stationary(dp) / stationary(da)) << " ("
                << (1 + std::sqrt(chi1 / chi2)) / 2 << ")");
    }
  }
}

}  // namespace orrery
