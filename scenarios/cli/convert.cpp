// `orrery convert`: clusters as SimGrid platforms, and the other way.
#include <fmt/core.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "backend/core/text.hpp"
#include "platforms/cluster.hpp"
#include "platforms/simgrid_network.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/interrupt.hpp"
#include "scenarios/cli/simulation.hpp"

namespace orrery::cli {

namespace {

std::string to_simgrid(const Arguments& arguments) {
  if (!arguments.node.empty())
    throw Error(Category::usage,
                "--node is for SimGrid platforms; a cluster says what its nodes are");
  Platform platform = read_platform(PlatformFolder(data_root()), arguments.positional.front());
  if (arguments.gpus > platform.gpus())
    throw Error(Category::usage, fmt::format("--gpus {}, but {} has {}", arguments.gpus,
                                             platform.cluster.name, platform.gpus()));
  return simgrid_platform(Cluster(std::move(platform), static_cast<int>(arguments.gpus)));
}

// A cluster file that names the platform, which it is read with once, so that both are known to be
// right before anything is written.
std::string to_orrery(const Arguments& arguments) {
  namespace fs = std::filesystem;
  const std::string& file = arguments.positional.front();
  if (arguments.gpus > 0)
    throw Error(Category::usage,
                "--gpus is for clusters; 'hosts' of the written file can be fewer");
  if (arguments.node.empty())
    throw Error(Category::usage,
                "what are the hosts? --node says, such as --node dgx-h100 (orrery list nodes)");
  const SimgridNetwork network = SimgridNetwork::read_file(file);
  const fs::path home =
      arguments.out.empty() ? fs::current_path() : fs::absolute(arguments.out).parent_path();
  const auto quoted = [](const std::string& text) { return nlohmann::json(text).dump(); };
  const std::string text = fmt::format(
      "# The network is that of a SimGrid platform; its hosts are the nodes.\n"
      "name: {}\n"
      "source: {{kind: assumed, note: {}}}\n"
      "parts: [{{node: {}, count: {}}}]\n"
      "fabric:\n"
      "  topology: simgrid\n"
      "  file: {}\n",
      quoted(fs::path(file).stem().string()), quoted("as " + file + " says"),
      quoted(arguments.node), network.hosts().size(),
      quoted(fs::absolute(file).lexically_proximate(home).generic_string()));
  const auto node = PlatformFolder(data_root()).node(arguments.node);
  const auto hosts = static_cast<std::int64_t>(network.hosts().size());
  if (!node.nics && hosts > 1)
    throw Error(Category::config, fmt::format("{} has no nics to join a network by", node.name));
  FabricSpec fabric;
  fabric.file.emplace(file);
  read_simgrid_fabric(
      fabric, hosts,
      node.nics ? node.nics->bandwidth.value * node.nics->achieved.value : BytesPerSecond(0));
  return text;
}

}  // namespace

int convert(const Arguments& arguments) {
  const bool from_simgrid = arguments.positional.front().ends_with(".xml");
  const std::string to = !arguments.to.empty() ? arguments.to : from_simgrid ? "orrery" : "simgrid";
  if (to != "simgrid" && to != "orrery")
    throw Error(Category::usage, "--to takes simgrid or orrery, not '" + to + "'");
  if (from_simgrid == (to == "simgrid"))
    throw Error(Category::usage, from_simgrid ? "a SimGrid platform needs no conversion to simgrid"
                                              : "a cluster needs no conversion to orrery");
  const std::string text = from_simgrid ? to_orrery(arguments) : to_simgrid(arguments);
  if (!arguments.out.empty()) {
    const InterruptGuard guard;
    write_file_atomically(arguments.out, text);
  }
  if (arguments.json)
    fmt::print("{}\n", nlohmann::ordered_json{{"schema", "orrery.convert/1"},
                                              {"to", to},
                                              {"file", arguments.out.empty()
                                                           ? nlohmann::ordered_json(nullptr)
                                                           : nlohmann::ordered_json(arguments.out)},
                                              {"text", text}}
                           .dump(2));
  else if (arguments.out.empty())
    fmt::print("{}", text);
  if (std::fflush(stdout) == 0) result_was_printed();
  return 0;
}

}  // namespace orrery::cli
