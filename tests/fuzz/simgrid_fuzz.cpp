// Fuzzes the reader of SimGrid platforms. Whatever the input, reading gives a ConfigError whose
// messages lie in the text, or a network in which a way leads from any host to any other, or
// crosses a link twice, which is refused when it is asked for.
#include <algorithm>
#include <cmath>

#include "platforms/simgrid_network.hpp"
#include "tests/fuzz/invariants.hpp"

using namespace orrery;
using fuzz::require;

namespace {

// The planted build looks for its crash alone, at several times the speed.
#ifdef ORRERY_FUZZ_PLANTED
constexpr bool only_planted = true;
#else
constexpr bool only_planted = false;
#endif

// Needs a valid platform with a latency or bandwidth that no seed has.
void planted([[maybe_unused]] const SimgridNetwork& network) {
#ifdef ORRERY_FUZZ_PLANTED
  for (const SimgridNetwork::Link& link : network.links()) {
    bool seen = false;
    for (const double seed : {0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 10.0, 1e3, 2e3, 3e3})
      seen = seen || std::abs(link.latency.value - seed * 1e-6) < 1e-9;
    bool usual = false;
    for (const double seed : {1.0, 1.25, 2.0, 2.5, 3.0, 4.0, 5.0, 9.0, 10.0, 12.5, 40.0})
      usual = usual || std::abs(link.bandwidth.value - seed * 1e9) < 1;
    if (!seen || !usual) std::abort();
  }
#endif
}

constexpr std::size_t longest = 8192;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), std::min(size, longest));
  try {
    const SimgridNetwork network = SimgridNetwork::parse(input, "input");
    planted(network);
    if (only_planted) return 0;
    require(!network.hosts().empty(), "a network without hosts");
    const int hosts = std::min(static_cast<int>(network.hosts().size()), 16);
    for (int from = 0; from < hosts; ++from)
      for (int to = 0; to < hosts; ++to) {
        std::vector<std::uint32_t> path;
        if (from == to) continue;
        try {
          network.route(from, to, path);
        } catch (const Error& error) {
          require(error.category() == Category::config, "an error of another category",
                  error.what());
          continue;
        }
        require(!path.empty(), "a way of no links");
        for (const std::uint32_t link : path)
          require(link < network.links().size(), "a way over a link that is not there");
      }
  } catch (const ConfigError& error) {
    if (!only_planted) fuzz::check_messages(error, input, {});
  }
  return 0;
}
