// Writing a cluster as a SimGrid platform.
#include <fmt/format.h>

#include <iterator>
#include <map>
#include <set>
#include <vector>

#include "backend/core/error.hpp"
#include "platforms/cluster.hpp"
#include "platforms/simgrid_network.hpp"

namespace orrery {

namespace {

constexpr int most_gpus = 1024;

// What a pair has besides its links.
struct OfPair {
  Time latency;
  BytesPerSecond bandwidth;
  auto operator<=>(const OfPair&) const = default;
};

// As the value of an attribute: sites have any name.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text)
    out += c == '&'                              ? "&amp;"
           : c == '<'                            ? "&lt;"
           : c == '"'                            ? "&quot;"
           : c == '\n' || c == '\t' || c == '\r' ? fmt::format("&#{};", static_cast<int>(c))
                                                 : std::string(1, c);
  return out;
}

// An id of each link: its name, unless another has it, as those of a SimGrid platform may.
std::vector<std::string> ids_of(const std::vector<LinkSpec>& links) {
  std::vector<std::string> ids;
  std::set<std::string> known;
  for (const LinkSpec& link : links) {
    std::string id = link.name.starts_with("pair") ? "link." + link.name : link.name;
    while (!known.insert(id).second) id += "'";
    ids.push_back(escaped(id));
  }
  return ids;
}

}  // namespace

std::string simgrid_platform(const Cluster& cluster) {
  const int gpus = cluster.gpus();
  if (gpus > most_gpus)
    throw Error(Category::config,
                fmt::format("{} GPUs have {} routes, one for each pair; a platform file holds "
                            "those of {}",
                            gpus, static_cast<std::int64_t>(gpus) * (gpus - 1), most_gpus))
        .with("hint", "ask for the first of them with --gpus");
  std::string routes;
  const std::vector<std::string> ids = ids_of(cluster.links());
  std::map<OfPair, std::size_t> pairs;
  std::vector<bool> crossed(cluster.links().size(), false);
  std::vector<std::uint32_t> path;
  const auto out = std::back_inserter(routes);
  for (int from = 0; from < gpus; ++from)
    for (int to = 0; to < gpus; ++to) {
      if (from == to) continue;
      cluster.route(from, to, path);
      const OfPair own{cluster.latency(from, to), cluster.bandwidth(from, to)};
      const std::size_t pair = pairs.emplace(own, pairs.size()).first->second;
      fmt::format_to(out, "    <route src=\"gpu{}\" dst=\"gpu{}\" symmetrical=\"NO\">", from, to);
      for (const std::uint32_t link : path) {
        fmt::format_to(out, "<link_ctn id=\"{}\"/>", ids[link]);
        crossed[link] = true;
      }
      fmt::format_to(out, "<link_ctn id=\"pair{}\"/></route>\n", pair);
    }
  std::string text =
      "<?xml version='1.0'?>\n"
      "<!DOCTYPE platform SYSTEM \"https://simgrid.org/simgrid.dtd\">\n"
      "<!-- A host per GPU. Latencies, and rates of transfers alone, are those of the pair links. "
      "-->\n"
      "<platform version=\"4.1\">\n  <zone id=\"cluster\" routing=\"Full\">\n";
  const auto body = std::back_inserter(text);
  for (int gpu = 0; gpu < gpus; ++gpu)
    fmt::format_to(body, "    <host id=\"gpu{}\" speed=\"1Gf\"/>\n", gpu);
  for (std::size_t i = 0; i < crossed.size(); ++i)
    if (crossed[i])
      fmt::format_to(body, "    <link id=\"{}\" bandwidth=\"{}Bps\" latency=\"0s\"/>\n", ids[i],
                     cluster.links()[i].bandwidth.value);
  for (const auto& [own, number] : pairs)
    fmt::format_to(body,
                   "    <link id=\"pair{}\" bandwidth=\"{}Bps\" latency=\"{}s\" "
                   "sharing_policy=\"FATPIPE\"/>\n",
                   number, own.bandwidth.value, own.latency.seconds().value);
  return text + routes + "  </zone>\n</platform>\n";
}

}  // namespace orrery
