// The engine's flows beside SimGrid's own solver without laziness, which is slow and does not share
// wrongly what starts together.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>
#include <map>
#include <simgrid/s4u.hpp>
#include <sstream>

#include "sim/simgrid/versions.hpp"
#include "tests/simgrid/lockstep_traffic.hpp"

namespace orrery::sim {
namespace {

namespace s4u = simgrid::s4u;
constexpr std::uint32_t hosts = 64;

// When each flow ends, in seconds: an actor per flow, in SimGrid alone.
std::string ends_by_full_solver(const Fabric& fabric, const std::vector<ReferenceFlow>& flows) {
  std::vector<std::string> words{"test",
                                 "--log=root.thres:critical",
                                 "--cfg=network/model:CM02",
                                 "--cfg=network/crosstraffic:0",
                                 "--cfg=network/TCP-gamma:1e30",
                                 "--cfg=network/optim:Full",
                                 "--cfg=surf/precision:1e-12",
                                 "--cfg=contexts/stack-size:128",
                                 "--cfg=contexts/guard-size:0"};
  if (actors_are_threads) words.emplace_back("--cfg=contexts/factory:thread");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  int argc = static_cast<int>(argv.size());
  s4u::Engine engine(&argc, argv.data());
#if SIMGRID_VERSION_MAJOR >= 4
  auto& zone = *engine.get_netzone_root()->add_netzone_full("zone")->get_impl();
#else
  auto& zone = *s4u::create_full_zone("zone")->get_impl();
#endif
  std::vector<const s4u::Link*> links;
  for (const double bandwidth : fabric.bandwidths)
    links.push_back(
        add_link(zone, fmt::format("l{}", links.size()), bandwidth)->set_latency(0)->seal());
  std::vector<s4u::Host*> ends;
  for (std::uint32_t i = 0; i < hosts; ++i) ends.push_back(add_host(zone, fmt::format("h{}", i)));
  for (std::uint32_t from = 0; from < hosts; ++from)
    for (std::uint32_t to = 0; to < hosts; ++to) {
      if (from == to) continue;
      std::vector<s4u::LinkInRoute> way;
      for (const std::uint32_t link : fabric.path(from, to)) way.emplace_back(links[link]);
      zone.add_route(ends[from]->get_netpoint(), ends[to]->get_netpoint(), nullptr, nullptr, way,
                     false);
    }
  zone.seal();
  std::vector<double> ended(flows.size());
  for (std::size_t i = 0; i < flows.size(); ++i)
    add_actor("flow", ends[0], [&, i] {
      s4u::this_actor::sleep_until(static_cast<double>(flows[i].start_ps) * 1e-12);
      s4u::Comm::sendto(ends[flows[i].path.front() / 2], ends[flows[i].path.back() / 2],
                        flows[i].bytes);
      ended[i] = s4u::Engine::get_clock();
    });
  engine.run();
  std::string text;
  for (const double end : ended) text += fmt::format("{}\n", end);
  return text;
}

std::string ends_by_engine(const Fabric& fabric, const std::vector<ReferenceFlow>& flows) {
  Scripted client;
  Engine engine(client);
  std::vector<LinkId> links;
  for (const double b : fabric.bandwidths) links.push_back(engine.add_link(BytesPerSecond(b)));
  std::vector<double> ended(flows.size());
  client.on_due = [&](Time now, const Key& key, std::uint64_t what) {
    if (what == 1) {
      ended[key.ordinal] = now.seconds().value;
      return;
    }
    std::vector<LinkId> path;
    for (const std::uint32_t link : flows[key.ordinal].path) path.push_back(links[link]);
    engine.start_flow(path, Bytes(static_cast<std::int64_t>(flows[key.ordinal].bytes)), key, 1);
  };
  for (std::size_t i = 0; i < flows.size(); ++i)
    engine.schedule(Time(flows[i].start_ps), Key{0, 0, i}, 0);
  engine.run();
  std::string text;
  for (const double end : ended) text += fmt::format("{}\n", end);
  return text;
}

void compare(const Fabric& fabric, std::size_t count) {
  std::vector<ReferenceFlow> flows = lockstep_traffic(fabric, hosts);
  flows.resize(count);
  for (ReferenceFlow& flow : flows)  // of seconds: both clocks have picoseconds
    flow.start_ps *= 1000, flow.bytes *= 1000;
  std::istringstream full(in_child([&] { return ends_by_full_solver(fabric, flows); }));
  std::istringstream ours(in_child([&] { return ends_by_engine(fabric, flows); }));
  double worst = 0;
  for (std::size_t i = 0; i < count; ++i) {
    double one = -1, other = -2;
    full >> one;
    ours >> other;
    REQUIRE(one > 0);
    worst = std::max(worst, std::abs(one - other) / one);
  }
  CHECK(worst <= 1e-9);
}

}  // namespace

// Actors are threads under sanitizers: fewer there.
TEST_CASE("flows end as SimGrid's full solver says, to 1e-9") {
  const std::size_t count = actors_are_threads ? 200 : 2000;
  compare(star(hosts), count);
  compare(clos(hosts), count);
}

}  // namespace orrery::sim
