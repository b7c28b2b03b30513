// Routes of networks in SimGrid's platform format.
#include "platforms/simgrid_network.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"

namespace orrery {

int SimgridNetwork::zone_below(int zone, int ancestor) const {
  while (zones_[static_cast<std::size_t>(zone)].parent != ancestor)
    zone = zones_[static_cast<std::size_t>(zone)].parent;
  return zone;
}

bool SimgridNetwork::way_inside(const Zone& zone, int from, int to, Links& path) const {
  if (zone.routing == Routing::cluster) {
    const Links &up = points_[static_cast<std::size_t>(from)].up,
                &down = points_[static_cast<std::size_t>(to)].down;
    path.insert(path.end(), up.begin(), up.end());
    path.insert(path.end(), zone.backbone.begin(), zone.backbone.end());
    path.insert(path.end(), down.begin(), down.end());
    return true;
  }
  const auto found = zone.routes.find({from, to});
  if (found == zone.routes.end()) return false;
  path.insert(path.end(), found->second.begin(), found->second.end());
  return true;
}

// To the gateway of the zone below their nearest common one, across, and from the other's gateway.
bool SimgridNetwork::way(int from, int to, Links& path) const {
  if (from == to) return true;
  int a = points_[static_cast<std::size_t>(from)].zone;
  int b = points_[static_cast<std::size_t>(to)].zone;
  if (a == b) return way_inside(zones_[static_cast<std::size_t>(a)], from, to, path);
  const auto depth = [this](int zone) { return zones_[static_cast<std::size_t>(zone)].depth; };
  const auto parent = [this](int zone) { return zones_[static_cast<std::size_t>(zone)].parent; };
  int common_a = a, common_b = b;
  while (common_a != common_b)
    if (depth(common_a) >= depth(common_b))
      common_a = parent(common_a);
    else
      common_b = parent(common_b);
  if (common_a == a || common_a == b) return false;  // a point beside a zone; the reader refuses it
  a = zone_below(a, common_a);
  b = zone_below(b, common_a);
  const auto& routes = zones_[static_cast<std::size_t>(common_a)].zone_routes;
  const auto found = routes.find({a, b});
  if (found == routes.end()) return false;
  const ZoneRoute& across = found->second;
  if (!way(from, across.leaves, path)) return false;
  path.insert(path.end(), across.links.begin(), across.links.end());
  return way(across.enters, to, path);
}

void SimgridNetwork::route(int from, int to, std::vector<std::uint32_t>& path) const {
  const std::size_t before = path.size();
  const bool there = way(points_of_hosts_[static_cast<std::size_t>(from)],
                         points_of_hosts_[static_cast<std::size_t>(to)], path);
  ORRERY_ASSERT(there, "the reader has seen a way between all hosts");
  for (std::size_t i = before; i < path.size(); ++i)
    if (std::find(path.begin() + static_cast<std::ptrdiff_t>(i) + 1, path.end(), path[i]) !=
        path.end())
      throw Error(Category::config,
                  fmt::format("the way from host {} to host {} crosses link {} twice",
                              hosts_[static_cast<std::size_t>(from)],
                              hosts_[static_cast<std::size_t>(to)], links_[path[i]].name));
}

// All shortest ways by the number of links (Floyd 1962), in SimGrid's order of comparisons.
void SimgridNetwork::find_shortest(Zone& zone, const std::vector<int>& points) {
  const std::size_t n = points.size();
  constexpr std::size_t none = ~std::size_t{0};
  std::vector<std::size_t> cost(n * n, none), last(n * n, none);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      if (const auto edge = zone.routes.find({points[i], points[j]}); edge != zone.routes.end())
        cost[i * n + j] = edge->second.size(), last[i * n + j] = i;
  for (std::size_t c = 0; c < n; ++c)
    for (std::size_t a = 0; a < n; ++a)
      for (std::size_t b = 0; b < n; ++b) {
        if (cost[a * n + c] == none || cost[c * n + b] == none) continue;
        const std::size_t over = cost[a * n + c] + cost[c * n + b];
        if (cost[a * n + b] == none || over < cost[a * n + b])
          cost[a * n + b] = over, last[a * n + b] = last[c * n + b];
      }
  std::map<std::pair<int, int>, Links> ways;
  for (std::size_t a = 0; a < n; ++a)
    for (std::size_t b = 0; b < n; ++b) {
      if (a == b || cost[a * n + b] == none) continue;
      std::vector<const Links*> hops;
      for (std::size_t at = b; at != a; at = last[a * n + at])
        hops.push_back(&zone.routes.at({points[last[a * n + at]], points[at]}));
      Links& way = ways[{points[a], points[b]}];
      for (auto hop = hops.rbegin(); hop != hops.rend(); ++hop)
        way.insert(way.end(), (*hop)->begin(), (*hop)->end());
    }
  zone.routes = std::move(ways);
}

namespace {

// A whole number of at most seven digits.
bool read_number(std::string_view text, int& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && text.size() <= 7 && value >= 0;
}

}  // namespace

std::vector<std::string> expand_host_names(const std::string& pattern) {
  const std::size_t open = pattern.find('['), close = pattern.rfind(']');
  if (open == std::string::npos && close == std::string::npos) return {pattern};
  if (open == std::string::npos || close == std::string::npos || close < open) return {};
  std::vector<std::string> names;
  for (const std::string& range : split(pattern.substr(open + 1, close - open - 1), ',')) {
    const std::size_t dash = range.find('-');
    int first = 0, last = 0;
    if (!read_number(range.substr(0, dash), first)) return {};
    last = first;
    if (dash != std::string::npos && !read_number(range.substr(dash + 1), last)) return {};
    if (last < first || names.size() + static_cast<std::size_t>(last - first) >= 100'000) return {};
    for (int i = first; i <= last; ++i)
      names.push_back(pattern.substr(0, open) + std::to_string(i) + pattern.substr(close + 1));
  }
  return names;
}

}  // namespace orrery
