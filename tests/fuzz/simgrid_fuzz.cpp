// Fuzzes the reader of SimGrid platforms. Whatever the input, reading gives a ConfigError whose
// messages lie in the text, or a network in which a way leads from any host to any other, or
// crosses a link twice, which is refused when it is asked for.
#include <algorithm>

#include "platforms/simgrid_network.hpp"
#include "tests/fuzz/invariants.hpp"

using namespace orrery;
using fuzz::require;

namespace {

// Needs a valid platform with a latency that no seed has.
void planted([[maybe_unused]] const SimgridNetwork& network) {
#ifdef ORRERY_FUZZ_PLANTED
  for (const SimgridNetwork::Link& link : network.links())
    if (link.latency > Seconds(1)) std::abort();
#endif
}

constexpr std::size_t longest = 8192;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), std::min(size, longest));
  try {
    const SimgridNetwork network = SimgridNetwork::parse(input, "input");
    planted(network);
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
    fuzz::check_messages(error, input, {});
  }
  return 0;
}
