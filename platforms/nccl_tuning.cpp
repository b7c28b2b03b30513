#include "platforms/nccl_tuning.hpp"

#include <algorithm>
#include <cmath>

#include "backend/core/real.hpp"

namespace orrery {

namespace {

// In microseconds: [ring, tree][LL, LL128, Simple].
constexpr double base_latency[2][3]{{6.6, 14.0, 8.4}, {6.8, 14.0, 8.4}};
constexpr double nvlink_latency[2][3]{{0.6, 1.9, 3.4}, {0.6, 1.25, 4.0}};
constexpr double pcie_latency[2][3]{{1.0, 2.5, 5.7}, {1.0, 1.9, 4.0}};
constexpr double network_latency[2][3]{{2.7, 4.0, 14.0}, {5.0, 8.5, 14.0}};
constexpr double nvls_inside = 25, nvls_tree_between = 20.9;
constexpr double pat_base = 8, pat_between = 14, pat_fewer = 3.5, pat_per_member = 2.8;
constexpr double ring_overhead = 1, simple_overhead = 3;

// GB/s by generation, on 1, 2 and more nodes (an Intel host); llMaxBws.
constexpr double ll_limits[4][3]{
    {39.0, 39.0, 20.4}, {87.7, 22.5, 19.0}, {141.0, 45.0, 35.0}, {282.0, 90.0, 70.0}};

double depth(const GroupShape& g) { return std::floor(std::log2(real(g.nodes))); }

// One way through port and switches, in microseconds; Simple signals once more.
double port(const GroupShape& g, NcclProtocol p) {
  return g.network_latency.value * 1e6 * (p == NcclProtocol::simple ? 2 : 1);
}

double ring_latency(Collective kind, const GroupShape& g, NcclProtocol p) {
  const auto column = static_cast<std::size_t>(p);
  const bool twice = kind == Collective::all_reduce;
  const int steps = (twice ? 2 : 1) * (g.members - 1);
  const int crossings = (twice ? 2 : 1) * (g.nodes - 1);
  double inside = (g.inside == Inside::nvlink ? nvlink_latency : pcie_latency)[0][column];
  if (g.nodes > 1)
    inside = std::max(inside, p == NcclProtocol::simple ? simple_overhead : ring_overhead);
  // A GPU alone on its node sends and receives through one port: the tree's row.
  const double between = network_latency[g.members_per_node == 1 ? 1 : 0][column] + port(g, p);
  return base_latency[0][column] + real(steps - crossings) * inside + real(crossings) * between;
}

double tree_latency(const GroupShape& g, NcclProtocol p) {
  const auto column = static_cast<std::size_t>(p);
  const double inside = (g.inside == Inside::nvlink ? nvlink_latency : pcie_latency)[1][column];
  const double between = network_latency[1][column] + port(g, p);
  return base_latency[1][column] + 2 * (real(g.members_per_node - 1) * inside + depth(g) * between);
}

}  // namespace

const char* name(NcclAlgorithm algorithm, NcclProtocol protocol) {
  static constexpr const char* names[5][3]{{"ring LL", "ring LL128", "ring"},
                                           {"tree LL", "tree LL128", "tree"},
                                           {"NVLS", "NVLS", "NVLS"},
                                           {"NVLS tree", "NVLS tree", "NVLS tree"},
                                           {"PAT", "PAT", "PAT"}};
  return names[static_cast<std::size_t>(algorithm)][static_cast<std::size_t>(protocol)];
}

std::optional<Seconds> nccl_latency(Collective kind, const GroupShape& g, NcclAlgorithm algorithm,
                                    NcclProtocol protocol) {
  const bool reduces_all = kind == Collective::all_reduce;
  const bool simple = protocol == NcclProtocol::simple;
  const bool switched = g.nvls_bandwidth.value > 0 && g.members_per_node > 1 && simple;
  const auto microseconds = [](double v) { return Seconds(v * 1e-6); };
  if (protocol == NcclProtocol::ll128 && g.inside != Inside::nvlink) return std::nullopt;
  switch (algorithm) {
    case NcclAlgorithm::ring:
      return microseconds(ring_latency(kind, g, protocol));
    case NcclAlgorithm::tree:
      if (!reduces_all) return std::nullopt;
      return microseconds(tree_latency(g, protocol));
    case NcclAlgorithm::nvls:
      if (!reduces_all || !switched || g.nodes > 1) return std::nullopt;
      return microseconds(nvls_inside);
    case NcclAlgorithm::nvls_tree:
      if (!reduces_all || !switched || g.nodes < 2) return std::nullopt;
      return microseconds(nvls_inside + 2 * depth(g) * (nvls_tree_between + port(g, protocol)));
    case NcclAlgorithm::pat: {
      const bool spreads = kind == Collective::all_gather || kind == Collective::reduce_scatter;
      if (!spreads || !simple || g.nodes < 2 || g.members_per_node > 1) return std::nullopt;
      return microseconds(pat_base + depth(g) * (pat_between + port(g, protocol)) / pat_fewer +
                          pat_per_member * real(g.members));
    }
  }
  return std::nullopt;
}

BytesPerSecond ll_limit(GpuGeneration generation, int nodes) {
  const auto column = static_cast<std::size_t>(std::min(nodes, 3) - 1);
  return BytesPerSecond(ll_limits[static_cast<std::size_t>(generation)][column] * 1e9);
}

}  // namespace orrery
