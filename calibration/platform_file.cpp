#include "calibration/platform_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"
#include "calibration/fit.hpp"
#include "calibration/fitted_numbers.hpp"

namespace orrery {

namespace {

StackSpec stack_of(const HostSamples& host, const std::string& name, const std::string& attention) {
  StackSpec stack;
  stack.name = name;
  stack.attention = attention;
  stack.host.launch.value = typical(host.launch);
  stack.host.wait.value = typical(host.wait);
  constexpr const char* alone = "one rank was measured, which has nobody to talk to";
  stack.host.communicate = host.communicate.empty() ? assumed(stack.host.launch.value, alone)
                                                    : Sourced<Seconds>(typical(host.communicate));
  stack.host.control_latency = host.control.empty() ? assumed(stack.host.wait.value, alone)
                                                    : Sourced<Seconds>(typical(host.control));
  constexpr const char* formulas = "of kernels that were not measured only";
  stack.elementwise = assumed(1.0, formulas);
  stack.loss_bytes_per_logit = assumed(Bytes(0), formulas);
  return stack;
}

// Links as seen by what has no table: large messages, and all-reduces by the ring formula.
ScaleUpLinkSpec link_of(const std::vector<CollectiveTableSpec>& tables, const std::string& kind) {
  ScaleUpLinkSpec link;
  link.kind = kind;
  link.achieved = assumed(1.0, "the bandwidth is what messages reach");
  link.transfer_achieved = link.achieved;
  link.ramp = assumed(Bytes(0), "collectives of other sizes and groups were not measured");
  for (const CollectiveTableSpec& table : tables)
    if (table.operation == "send")
      link.bandwidth_per_direction.value = BytesPerSecond(
          std::round(static_cast<double>(table.sizes.back().value) / table.times.back().value));
  return link;
}

GpuSpec device_of(const Measurements& measurements, const MachineFacts& machine, int devices,
                  const std::string& name) {
  const auto& samples = measurements.kernels;
  const double peak = fastest_product(samples, Dtype::fp32);
  const double bandwidth = fastest_stream(samples);
  if (!(peak > 0) || !(bandwidth > 0))
    throw Error(Category::internal, "a calibration without GEMMs and vectors makes no platform");
  GpuSpec device;
  device.name = name;
  device.memory.capacity.value = Bytes(machine.memory.value / devices);
  device.memory.bandwidth.value = BytesPerSecond(std::round(bandwidth));
  device.memory.achieved = assumed(1.0, "the bandwidth is what a kernel reached");
  device.compute.sm = assumed(std::int64_t{1}, "a core has no multiprocessors to fill");
  device.compute.peak.fp32.emplace(FlopsPerSecond(std::round(peak)));
  device.compute.gemm.efficiency.fp32 = assumed(1.0, "the peak is what a GEMM reached");
  device.compute.gemm.launch.value = typical(measurements.host.operation);
  device.compute.gemm.edge =
      fitted_edge(samples, {FlopsPerSecond(peak), 1, 0, 1, Seconds(0), BytesPerSecond(bandwidth)},
                  "the GEMMs of this file with one busy core");
  device.measured = kernel_tables(samples);
  return device;
}

// Errors are written to four places: a hundredth of a percent.
void round_error(std::optional<MeasuredErrorSpec>& error) {
  if (!error) return;
  for (double* value :
       {&error->mean_abs, &error->max_abs, &error->p90, &error->bias, &error->spread})
    *value = std::round(*value * 1e4) / 1e4;
}

// The same YAML with lists of plain values that are longer than a line broken behind commas.
std::string with_short_lines(const std::string& yaml) {
  constexpr std::size_t width = 120;
  std::string out;
  for (std::string line : split(yaml, '\n')) {
    const std::size_t indent = line.find_first_not_of(" -") + 2;
    const bool list = line.ends_with(']') && line.find(": [") != std::string::npos &&
                      line.find('"') == std::string::npos;
    while (list && line.size() > width) {
      const std::size_t comma = line.rfind(", ", width - 1);
      if (comma == std::string::npos || comma <= indent) break;
      out += line.substr(0, comma + 1) + "\n";
      line = std::string(indent, ' ') + line.substr(comma + 2);
    }
    out += line + "\n";
  }
  out.pop_back();  // split gives what follows the last line's end, too
  return out;
}

}  // namespace

ClusterSpec platform_of(const Measurements& measurements, const MachineFacts& machine, int ranks,
                        const std::string& name) {
  const int devices = std::max(ranks, machine.cores);
  ClusterSpec cluster = platform_around(device_of(measurements, machine, devices, name + "-core"),
                                        devices, {"shared-memory", "cpu"}, measurements, name);
  cluster.nodes.front().cores = Sourced<std::int64_t>(machine.cores);
  return cluster;
}

ClusterSpec platform_around(GpuSpec device, int devices, const PlatformWords& words,
                            const Measurements& measurements, const std::string& name) {
  const std::string node = name + "-node", stack = name + "-stack";
  ClusterSpec cluster;
  cluster.name = name;
  cluster.parts.push_back({Sourced<std::string>(node), Sourced<std::int64_t>(1), {}});
  cluster.fabric.hop_latency = assumed(Seconds(0), "one machine has no switches");
  cluster.stack = Sourced<std::string>(stack);
  cluster.collectives.measured = collective_tables(measurements.collectives);
  cluster.stacks = {stack_of(measurements.host, stack, words.attention)};
  NodeSpec machine_node;
  machine_node.name = node;
  machine_node.gpus = {Sourced<std::string>(device.name), Sourced<std::int64_t>(devices)};
  if (devices > 1) {
    device.link.scale_up = link_of(cluster.collectives.measured, words.link);
    if (!(device.link.scale_up->bandwidth_per_direction.value > BytesPerSecond(0)))
      device.link.scale_up->bandwidth_per_direction =
          assumed(BytesPerSecond(device.memory.bandwidth.value * 0.5),
                  "a message reads and writes memory once");
    NodeScaleUpSpec& scale_up = machine_node.scale_up.emplace();
    scale_up.topology = "pcie";
    scale_up.domain = Sourced<std::int64_t>(devices);
  }
  for (MeasuredTableSpec& table : device.measured) round_error(table.error);
  for (CollectiveTableSpec& table : cluster.collectives.measured) round_error(table.error);
  cluster.gpus = {std::move(device)};
  cluster.nodes = {std::move(machine_node)};
  return cluster;
}

std::string to_text(const ClusterSpec& cluster, const Source& measured) {
  Node tree = to_node(cluster);
  Node root = Node::map();
  root.add("source", detail::write_source(measured));
  for (Node& child : tree.children) {
    const std::string key = child.key;
    root.add(key, std::move(child));
  }
  return with_short_lines(to_yaml(root));
}

}  // namespace orrery
