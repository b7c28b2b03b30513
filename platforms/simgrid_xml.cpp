// Reading SimGrid's platform files.
#include <fmt/format.h>

#include <algorithm>

#include "backend/core/units_text.hpp"
#include "platforms/simgrid_network.hpp"
#include "platforms/simgrid_xml_text.hpp"

namespace orrery {

class SimgridReader : private XmlText {
 public:
  SimgridReader(const std::string& text, const std::string& file) : XmlText(text, file) {}

  SimgridNetwork read() {
    if (const std::size_t bad = invalid_utf8(text()); bad != std::string::npos) {
      ConfigMessage message = message_at(mark(bad, 1), "this is not UTF-8");
      message.excerpt.clear();  // which no terminal would show
      throw ConfigError({message});
    }
    pugi::xml_document document;
    const pugi::xml_parse_result parsed = document.load_buffer(
        text().data(), text().size(), pugi::parse_default, pugi::encoding_utf8);
    if (!parsed) {
      fail_at(static_cast<std::size_t>(parsed.offset), 1,
              fmt::format("this is not XML: {}", parsed.description()));
    } else if (const pugi::xml_node platform = document.child("platform")) {
      read_platform(platform);
    } else {
      fail_at(0, 1, "a SimGrid platform begins with <platform version=\"4.1\">");
    }
    problems().throw_if_any();
    check_ways();
    problems().throw_if_any();
    return std::move(net_);
  }

 private:
  using Links = SimgridNetwork::Links;
  using Routing = SimgridNetwork::Routing;

  static constexpr double slowest = 1e6, longest = 3600;  // of links: bytes per second, seconds

  SimgridNetwork::Zone& zone_at(int zone) { return net_.zones_[static_cast<std::size_t>(zone)]; }
  SimgridNetwork::Point& point_at(int point) {
    return net_.points_[static_cast<std::size_t>(point)];
  }

  double quantity(const pugi::xml_node& node, const char* attribute, Dimension unit) {
    const std::string text = node.attribute(attribute).value();
    if (const auto bare = parse_number(text).value; bare && *bare >= 0) return *bare;
    const auto read = parse_quantity(text, unit);
    if (read.value && *read.value >= 0) return *read.value;
    fail(node, attribute,
         fmt::format("{}: expected {}, got '{}'", attribute, unit_description(unit), text),
         read.suggestion);
    return 1;
  }
  BytesPerSecond bandwidth(const pugi::xml_node& node, const char* attribute) {
    const double rate = quantity(node, attribute, Dimension::bytes_per_second);
    if (rate < slowest)
      fail(node, attribute, fmt::format("{}: a link has at least 1MBps", attribute), "");
    return BytesPerSecond(std::max(rate, slowest));
  }
  Seconds latency(const pugi::xml_node& node, const char* attribute) {
    const double time =
        node.attribute(attribute) ? quantity(node, attribute, Dimension::seconds) : 0;
    if (time > longest) fail(node, attribute, fmt::format("{}: at most an hour", attribute), "");
    return Seconds(std::min(time, longest));
  }
  std::string word(const pugi::xml_node& node, const char* attribute, const char* otherwise,
                   const std::vector<std::string>& known) {
    const std::string text =
        node.attribute(attribute) ? node.attribute(attribute).value() : otherwise;
    if (std::count(known.begin(), known.end(), text) > 0) return text;
    const std::string hint = did_you_mean(text, known);
    fail(node, attribute, fmt::format("{}: '{}' is not read", attribute, text),
         hint.empty() ? "read are " + join(known, ", ") : hint);
    return known.front();
  }

  void read_platform(const pugi::xml_node& platform) {
    const std::string version = platform.attribute("version").value();
    if (!version.starts_with("4"))
      fail(platform, fmt::format("expected a platform of version 4, got '{}'", version),
           "simgrid_update_xml brings older ones up to date");
    int roots = 0;
    for (const pugi::xml_node& child : platform.children()) {
      if (child.type() != pugi::node_element || left_alone.count(child.name()) > 0) continue;
      if (++roots > 1)
        fail(child, "a platform has one zone that holds all others");
      else
        read_zone(child, -1);
    }
    if (roots == 0) fail(platform, "a platform has a zone with hosts");
  }

  void read_zone(const pugi::xml_node& node, int parent) {
    const std::string name = modern(node.name());
    if (name != "zone" && name != "cluster") {
      fail(node, fmt::format("<{}> cannot stand here", node.name()),
           did_you_mean(node.name(), {"zone", "cluster"}));
      return;
    }
    if (!check(node)) return;
    const int zone = static_cast<int>(net_.zones_.size());
    SimgridNetwork::Zone& fresh = net_.zones_.emplace_back();
    fresh.name = node.attribute("id").value();
    fresh.parent = parent;
    fresh.depth = parent < 0 ? 0 : zone_at(parent).depth + 1;
    fresh.at = mark(node);
    if (!zones_.emplace(fresh.name, zone).second)
      fail(node, "id", fmt::format("there is a zone '{}' already", fresh.name), "");
    if (fresh.depth > 64) {
      fail(node, "zones are nested deeper than 64");
      return;
    }
    if (name == "cluster") return read_cluster(node, zone);
    const std::string routing =
        word(node, "routing", "", {"Full", "Floyd", "Dijkstra", "DijkstraCache"});
    fresh.routing = routing == "Full" ? Routing::full : Routing::shortest;
    // Links and points may stand behind the routes that name them.
    for (const pugi::xml_node& child : node.children()) read_child(child, zone);
    for (const pugi::xml_node& child : node.children()) {
      const std::string kind = modern(child.name());
      if (kind == "route" && check(child)) read_route(child, zone);
      if (kind == "zoneRoute" && check(child)) read_zone_route(child, zone);
    }
    if (routing == "Full") return;
    std::vector<int> points;
    for (std::size_t p = 0; p < net_.points_.size(); ++p)
      if (net_.points_[p].zone == zone) points.push_back(static_cast<int>(p));
    if (points.size() > 500)
      fail(node, "routing", "shortest ways among more than 500 hosts and routers",
           "use zones within a zone, with routing Full");
    else
      net_.find_shortest(zone_at(zone), points);
  }

  void read_child(const pugi::xml_node& child, int zone) {
    static const std::vector<std::string> here{"zone", "cluster", "host",     "router",
                                               "link", "route",   "zoneRoute"};
    const std::string kind = modern(child.name());
    if (child.type() != pugi::node_element || left_alone.count(kind) > 0) return;
    if (kind == "zone" || kind == "cluster") {
      if (zone_at(zone).routing != Routing::full)
        fail(child, "a zone within a zone needs routing Full around it");
      return read_zone(child, zone);
    }
    if (kind == "route" || kind == "zoneRoute") return;
    if (std::count(here.begin(), here.end(), kind) == 0) {
      const std::string hint = did_you_mean(kind, here);
      return fail(child, fmt::format("<{}> is not read", child.name()),
                  hint.empty() ? "read are " + join(here, ", ") : hint);
    }
    if (!check(child)) return;
    if (kind == "link") return read_link(child);
    add_point(child, child.attribute("id").value(), zone, kind == "host");
  }

  int add_point(const pugi::xml_node& node, const std::string& name, int zone, bool host) {
    const int point = static_cast<int>(net_.points_.size());
    if (!points_.emplace(name, point).second)
      fail(node, fmt::format("there is a host or router '{}' already", name));
    SimgridNetwork::Point& fresh = net_.points_.emplace_back();
    fresh.name = name;
    fresh.zone = zone;
    fresh.used = host;
    if (!host) return point;
    fresh.host = static_cast<int>(net_.hosts_.size());
    net_.hosts_.push_back(name);
    net_.points_of_hosts_.push_back(point);
    return point;
  }

  std::uint32_t add_link(const pugi::xml_node& node, const std::string& name, BytesPerSecond rate,
                         Seconds delay, bool fat_pipe) {
    const auto link = static_cast<std::uint32_t>(net_.links_.size());
    if (!links_.emplace(name, link).second)
      fail(node, fmt::format("there is a link '{}' already", name));
    net_.links_.push_back({name, rate, delay, fat_pipe, false, mark(node)});
    return link;
  }

  void read_link(const pugi::xml_node& node) {
    const std::string name = node.attribute("id").value();
    const BytesPerSecond rate = bandwidth(node, "bandwidth");
    const Seconds delay = latency(node, "latency");
    const std::string policy =
        word(node, "sharing_policy", "SHARED", {"SHARED", "SPLITDUPLEX", "FATPIPE"});
    if (policy == "SPLITDUPLEX")
      for (const char* way : {"_UP", "_DOWN"}) add_link(node, name + way, rate, delay, false);
    else
      add_link(node, name, rate, delay, policy == "FATPIPE");
  }

  void read_cluster(const pugi::xml_node& node, int zone) {
    zone_at(zone).routing = Routing::cluster;
    const std::string id = node.attribute("id").value(), prefix = node.attribute("prefix").value(),
                      suffix = node.attribute("suffix").value();
    const BytesPerSecond rate = bandwidth(node, "bw");
    const Seconds delay = latency(node, "lat");
    const std::string policy =
        word(node, "sharing_policy", "SPLITDUPLEX", {"SHARED", "SPLITDUPLEX", "FATPIPE"});
    const bool split = policy == "SPLITDUPLEX";
    const std::vector<std::string> numbers =
        expand_host_names(fmt::format("[{}]", node.attribute("radical").value()));
    if (numbers.empty())
      fail(node, "radical", "radical: expected numbers and ranges", "such as 0-15,20");
    for (const std::string& number : numbers) {
      const int point = add_point(node, prefix + number + suffix, zone, true);
      const std::string name = fmt::format("{}_link_{}", id, number);
      const std::uint32_t up =
          add_link(node, split ? name + "_UP" : name, rate, delay, policy == "FATPIPE");
      const std::uint32_t down = split ? add_link(node, name + "_DOWN", rate, delay, false) : up;
      net_.points_.back().up = {up};
      point_at(point).down = {down};
      net_.links_[up].crossed = net_.links_[down].crossed = true;
    }
    const std::string router = node.attribute("router_id").value();
    add_point(node, router.empty() ? prefix + id + "_router" + suffix : router, zone, false);
    if (!node.attribute("bb_bw")) {
      if (node.attribute("bb_lat")) fail(node, "bb_lat", "a backbone has a bandwidth", "add bb_bw");
      return;
    }
    const std::string backbone = word(node, "bb_sharing_policy", "SHARED", {"SHARED", "FATPIPE"});
    zone_at(zone).backbone = {add_link(node, id + "_backbone", bandwidth(node, "bb_bw"),
                                       latency(node, "bb_lat"), backbone == "FATPIPE")};
    net_.links_.back().crossed = true;
  }

  // The links that a route names, there and back.
  bool read_links(const pugi::xml_node& route, Links& there, Links& back) {
    bool good = true;
    for (const pugi::xml_node& child : route.children()) {
      if (child.type() != pugi::node_element || left_alone.count(child.name()) > 0) continue;
      if (std::string(child.name()) != "link_ctn") {
        fail(child, fmt::format("<{}> cannot stand in a route", child.name()),
             did_you_mean(child.name(), {"link_ctn"}));
        good = false;
        continue;
      }
      if (!check(child)) return false;
      const std::string name = child.attribute("id").value();
      const std::string way = word(child, "direction", "NONE", {"NONE", "UP", "DOWN"});
      const bool up = way == "UP";
      const std::string one = way == "NONE" ? name : name + (up ? "_UP" : "_DOWN");
      std::string other = way == "NONE" ? name : name + (up ? "_DOWN" : "_UP");
      if (way == "NONE" && name.ends_with("_UP")) other = name.substr(0, name.size() - 3) + "_DOWN";
      if (way == "NONE" && name.ends_with("_DOWN")) other = name.substr(0, name.size() - 5) + "_UP";
      if (links_.count(one) == 0) {
        std::vector<std::string> known;
        for (const auto& [link, index] : links_) known.push_back(link);
        const bool divided = links_.count(name + "_UP") > 0;
        fail(child, "id", fmt::format("there is no link '{}'", one),
             divided ? "a SPLITDUPLEX link has a direction, UP or DOWN" : did_you_mean(one, known));
        good = false;
        continue;
      }
      if (std::count(there.begin(), there.end(), links_.at(one)) > 0) {
        fail(child, "id", fmt::format("the route crosses link '{}' twice", one), "");
        good = false;
        continue;
      }
      there.push_back(links_.at(one));
      back.insert(back.begin(), links_.at(links_.count(other) > 0 ? other : one));
    }
    if (good && there.empty())
      fail(route, "a route has at least one link", "add <link_ctn id=\"…\"/>");
    return good && !there.empty();
  }

  void cross(const Links& there, const Links& back) {
    for (const std::uint32_t link : there) net_.links_[link].crossed = true;
    for (const std::uint32_t link : back) net_.links_[link].crossed = true;
  }

  int end_of(const pugi::xml_node& route, const char* attribute,
             const std::map<std::string, int>& among, const char* what) {
    const std::string name = route.attribute(attribute).value();
    const auto found = among.find(name);
    if (found != among.end()) return found->second;
    std::vector<std::string> known;
    for (const auto& [other, index] : among) known.push_back(other);
    fail(route, attribute, fmt::format("there is no {} '{}'", what, name),
         did_you_mean(name, known));
    return -1;
  }

  bool symmetrical(const pugi::xml_node& route) {
    const std::string answer = word(route, "symmetrical", "YES", {"YES", "NO", "yes", "no"});
    return answer == "YES" || answer == "yes";
  }

  void read_route(const pugi::xml_node& node, int zone) {
    const int from = end_of(node, "src", points_, "host or router"),
              to = end_of(node, "dst", points_, "host or router");
    Links there, back;
    if (from < 0 || to < 0 || !read_links(node, there, back)) return;
    for (const auto& [attribute, point] : {std::pair{"src", from}, {"dst", to}})
      if (point_at(point).zone != zone)
        return fail(node, attribute, "it belongs to another zone", "zones are joined by zoneRoute");
    if (from != to) cross(there, back);
    auto& routes = zone_at(zone).routes;
    bool fresh = routes.emplace(std::pair{from, to}, there).second;
    if (symmetrical(node) && from != to)
      fresh = routes.emplace(std::pair{to, from}, back).second && fresh;
    if (!fresh) fail(node, "there is a route between these already");
  }

  void read_zone_route(const pugi::xml_node& node, int zone) {
    const int from = end_of(node, "src", zones_, "zone"), to = end_of(node, "dst", zones_, "zone");
    const int leaves = end_of(node, "gw_src", points_, "host or router"),
              enters = end_of(node, "gw_dst", points_, "host or router");
    Links there, back;
    if (std::min({from, to, leaves, enters}) < 0 || !read_links(node, there, back)) return;
    for (const auto& [attribute, end, gateway] :
         {std::tuple{"src", from, leaves}, {"dst", to, enters}}) {
      if (zone_at(end).parent != zone)
        return fail(node, attribute, "it does not stand in this zone", "");
      int at = point_at(gateway).zone;
      while (at >= 0 && at != end) at = zone_at(at).parent;
      if (at < 0)
        return fail(node, std::string("gw_") + attribute, "the gateway is in another zone", "");
      point_at(gateway).used = true;
    }
    cross(there, back);
    const Mark at = mark(node);
    auto& routes = zone_at(zone).zone_routes;
    bool fresh =
        routes.emplace(std::pair{from, to}, SimgridNetwork::ZoneRoute{leaves, enters, there, at})
            .second;
    if (symmetrical(node))
      fresh =
          routes.emplace(std::pair{to, from}, SimgridNetwork::ZoneRoute{enters, leaves, back, at})
              .second &&
          fresh;
    if (!fresh) fail(node, "there is a route between these zones already");
  }

  // That there is a way between any two hosts.
  void check_ways() {
    std::vector<std::vector<int>> used(net_.zones_.size());  // its points that routes lead to
    std::vector<bool> holds(net_.zones_.size(), false);      // hosts, within
    for (std::size_t p = 0; p < net_.points_.size(); ++p) {
      if (!net_.points_[p].used) continue;
      const int zone = net_.points_[p].zone;
      used[static_cast<std::size_t>(zone)].push_back(static_cast<int>(p));
      for (int at = zone; net_.points_[p].host >= 0 && at >= 0; at = zone_at(at).parent)
        holds[static_cast<std::size_t>(at)] = true;
    }
    if (net_.hosts_.empty()) problems().add(net_.zones_.front().at, "the platform has no host");
    for (std::size_t z = 0; z < net_.zones_.size(); ++z) {
      check_points(net_.zones_[z], used[z]);
      check_zones(static_cast<int>(z), used, holds);
    }
  }

  // The first missing route of a zone tells enough.
  void check_points(const SimgridNetwork::Zone& zone, const std::vector<int>& points) {
    Links ignored;
    for (const int from : points)
      for (const int to : points) {
        if (zone.routing == Routing::cluster) return;
        if (from == to || zone.routes.count({from, to}) > 0) continue;
        return problems().add(zone.at, fmt::format("zone {} has no route from {} to {}", zone.name,
                                                   point_at(from).name, point_at(to).name));
      }
  }

  void check_zones(int zone, const std::vector<std::vector<int>>& used,
                   const std::vector<bool>& holds) {
    const SimgridNetwork::Zone& outer = zone_at(zone);
    std::vector<int> inner;
    for (std::size_t z = 0; z < net_.zones_.size(); ++z)
      if (net_.zones_[z].parent == zone && holds[z]) inner.push_back(static_cast<int>(z));
    if (!inner.empty() && !used[static_cast<std::size_t>(zone)].empty())
      return problems().add(
          outer.at,
          fmt::format("zone {} has {} beside zones", outer.name,
                      point_at(used[static_cast<std::size_t>(zone)].front()).name),
          "put it into a zone of its own");
    for (const int from : inner)
      for (const int to : inner) {
        if (from == to || outer.zone_routes.count({from, to}) > 0) continue;
        return problems().add(outer.at,
                              fmt::format("zone {} has no zoneRoute from {} to {}", outer.name,
                                          zone_at(from).name, zone_at(to).name));
      }
    for (const auto& [ends, across] : outer.zone_routes)
      for (std::size_t z = 0; z < used.size(); ++z) check_gateways(ends, across, used[z]);
  }

  // A point of each zone stands for all of them.
  void check_gateways(const std::pair<int, int>& ends, const SimgridNetwork::ZoneRoute& across,
                      const std::vector<int>& points) {
    if (points.empty()) return;
    const int point = points.front();
    const auto within = [&](int zone) {
      int at = point_at(point).zone;
      while (at >= 0 && at != zone) at = zone_at(at).parent;
      return at >= 0;
    };
    Links ignored;
    if ((within(ends.first) && !net_.way(point, across.leaves, ignored)) ||
        (within(ends.second) && !net_.way(across.enters, point, ignored)))
      problems().add(across.at,
                     fmt::format("{} has no way to a gateway of this", point_at(point).name));
  }

  SimgridNetwork net_;
  std::map<std::string, int> zones_, points_;
  std::map<std::string, std::uint32_t> links_;
};

SimgridNetwork SimgridNetwork::parse(const std::string& text, const std::string& file) {
  return SimgridReader(text, file).read();
}

SimgridNetwork SimgridNetwork::read_file(const std::string& path, const Mark& asked_at) {
  std::string text;
  try {
    text = orrery::read_file(path, std::size_t{256} << 20);
  } catch (const Error& error) {
    if (!asked_at) throw;
    Problems problems;
    problems.add(asked_at, error.message());
    problems.throw_if_any();
  }
  return parse(text, path);
}

}  // namespace orrery
