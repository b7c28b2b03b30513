// Networks in SimGrid's platform format (version 4): reading hosts, links and routes, and writing a
// cluster for SimGrid to load. https://simgrid.org/doc/latest/XML_reference.html
//
// Read are, of the format: zones in zones with <route> and <zoneRoute> (routing Full), flat zones
// with shortest paths (Floyd, Dijkstra and DijkstraCache: fewest links; where several are equal
// SimGrid's Dijkstra may take another than this), <cluster> without a topology of its own, hosts,
// routers, links. A route's bandwidths and latencies are taken as they stand: none of the factors
// with which SimGrid's TCP models multiply them. SHARED links have one bandwidth for both
// directions, SPLITDUPLEX links one for each, FATPIPE links one for each flow. Speeds of hosts and
// properties are left alone; whatever else would change a time is refused, at its line.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "backend/core/config_error.hpp"
#include "backend/core/units.hpp"

namespace orrery {

class Cluster;

class SimgridNetwork {
 public:
  struct Link {
    std::string name;  // of a SPLITDUPLEX link with _UP or _DOWN, as SimGrid has it
    BytesPerSecond bandwidth;
    Seconds latency;
    bool fat_pipe = false;
    bool crossed = false;  // by some route between two hosts
    Mark at;
  };

  // Throw ConfigError with all that is wrong, at its place in the file; a file that cannot be read
  // is reported at `asked_at`.
  static SimgridNetwork parse(const std::string& text, const std::string& file);
  static SimgridNetwork read_file(const std::string& path, const Mark& asked_at = {});

  const std::vector<std::string>& hosts() const { return hosts_; }  // as the file has them
  const std::vector<Link>& links() const { return links_; }

  // Appends the links of the way between two different hosts.
  void route(int from, int to, std::vector<std::uint32_t>& path) const;

 private:
  friend class SimgridReader;
  using Links = std::vector<std::uint32_t>;
  struct Point {  // a host or a router
    std::string name;
    int zone = 0;
    int host = -1;      // index into hosts_
    Links up, down;     // of a <cluster>'s: to its backbone, and back
    bool used = false;  // a host, or a gateway: there must be routes to it
  };
  struct ZoneRoute {
    int leaves = 0, enters = 0;  // gateways, as points
    Links links;
    Mark at;
  };
  enum class Routing : std::uint8_t { full, shortest, cluster };
  struct Zone {
    std::string name;
    int parent = -1, depth = 0;
    Routing routing = Routing::full;
    Mark at;
    Links backbone;                                        // of a <cluster>
    std::map<std::pair<int, int>, Links> routes;           // between its points
    std::map<std::pair<int, int>, ZoneRoute> zone_routes;  // between its zones
  };

  // False where there is none.
  bool way(int from, int to, Links& path) const;
  bool way_inside(const Zone& zone, int from, int to, Links& path) const;
  int zone_below(int zone, int ancestor) const;  // the one that holds `zone`; `zone` itself
  void find_shortest(Zone& zone, const std::vector<int>& points);

  std::vector<std::string> hosts_;
  std::vector<int> points_of_hosts_;
  std::vector<Link> links_;
  std::vector<Point> points_;
  std::vector<Zone> zones_;
};

// "n[0-3,7].x" stands for n0.x, n1.x, n2.x, n3.x, n7.x; a name without brackets for itself. Empty
// where the brackets hold anything but numbers and ranges, or more than 100,000 of them.
std::vector<std::string> expand_host_names(const std::string& pattern);

// The GPUs of a cluster as hosts gpu0, gpu1, … of one zone, their links as FATPIPE or SHARED ones
// without latency, and a route for every pair. What belongs to a pair and to no link, its latency
// and the rate of a transfer alone, is a FATPIPE link "pair…" on its routes, shared by none. In
// SimGrid with network/model:CM02, network/crosstraffic:0 and network/TCP-gamma:1e30 a transfer
// alone takes its latency, and its bytes over its own rate or that of its slowest link, if less.
// Error{config} with more than 1,024 GPUs, whose routes number a million.
std::string simgrid_platform(const Cluster& cluster);

}  // namespace orrery
