#include "platforms/platform.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "backend/core/text.hpp"

namespace orrery {

namespace fs = std::filesystem;

namespace {

constexpr const char* kind_names[]{"gpu", "node", "cluster", "stack", "curve"};

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

// Only what find() needs; all other keys belong to the reader of the kind.
struct Heading {
  std::string name;
  std::vector<std::string> aliases;
  Node rest;
};
void describe(Fields<Heading>& f) {
  f.field("name", &Heading::name);
  f.field("aliases", &Heading::aliases);
  f.rest(&Heading::rest);
}

Heading read_heading(const std::string& file) {
  try {
    const Document document = Document::parse_file(file);
    Problems ignored;
    return read<Heading>(document, ignored);
  } catch (const Error&) {
    return {};  // the file is reported when it is asked for by its own name
  }
}

bool is_path(const std::string& name) {
  return name.ends_with(".yaml") || name.find('/') != std::string::npos;
}

}  // namespace

const char* name(PlatformKind kind) { return kind_names[static_cast<std::size_t>(kind)]; }

const std::optional<Sourced<FlopsPerSecond>>* PeakSpec::of(Dtype type) const {
  switch (type) {
    case Dtype::fp64:
      return &fp64;
    case Dtype::fp32:
      return &fp32;
    case Dtype::bf16:
      return &bf16;
    case Dtype::fp16:
      return fp16 ? &fp16 : &bf16;
    case Dtype::fp8:
      return &fp8;
    case Dtype::fp4:
      return &fp4;
    case Dtype::int32:
    case Dtype::int64:
    case Dtype::uint8:
      break;
  }
  return nullptr;
}

const Sourced<FlopsPerSecond>& GpuSpec::peak(Dtype dtype) const {
  const std::optional<Sourced<FlopsPerSecond>>* found = compute.peak.of(dtype);
  if (found == nullptr || !*found)
    throw Error(Category::config, fmt::format("{} has no peak for {}: it cannot compute with it",
                                              name, orrery::name(dtype)));
  return **found;
}

std::vector<std::string> PlatformFolder::names(PlatformKind kind) const {
  std::vector<std::string> out;
  const fs::path folder = fs::path(root_) / "platforms" / (std::string(name(kind)) + "s");
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder, none))
    if (entry.path().extension() == ".yaml") out.push_back(entry.path().stem().string());
  std::sort(out.begin(), out.end());
  return out;
}

std::string PlatformFolder::find(PlatformKind kind, const std::string& wanted) const {
  std::error_code none;
  if (is_path(wanted)) {
    for (const fs::path& path : {fs::path(wanted), fs::path(root_) / wanted})
      if (fs::is_regular_file(path, none)) return path.string();
    return "";
  }
  const fs::path folder = fs::path(root_) / "platforms" / (std::string(name(kind)) + "s");
  const fs::path direct = folder / (wanted + ".yaml");
  if (!wanted.empty() && fs::is_regular_file(direct, none)) return direct.string();
  for (const std::string& candidate : names(kind)) {
    const std::string file = (folder / (candidate + ".yaml")).string();
    const Heading heading = read_heading(file);
    if (lower(heading.name) == lower(wanted)) return file;
    for (const std::string& alias : heading.aliases)
      if (lower(alias) == lower(wanted)) return file;
  }
  return "";
}

std::string PlatformFolder::suggestion(PlatformKind kind, const std::string& wanted) const {
  const std::vector<std::string> known = names(kind);
  const std::string near = did_you_mean(wanted, known);
  if (!near.empty()) return near;
  if (known.empty()) return fmt::format("there are none in {}/platforms/{}s", root_, name(kind));
  return fmt::format("known are {}", join(known, ", "));
}

template <class Spec>
Spec PlatformFolder::load(PlatformKind kind, const std::string& wanted,
                          const Mark& asked_at) const {
  const std::string file = find(kind, wanted);
  if (file.empty()) {
    Problems problems;
    problems.add(asked_at,
                 is_path(wanted) ? fmt::format("no file {} for a {}", wanted, name(kind))
                                 : fmt::format("unknown {} '{}'", name(kind), wanted),
                 suggestion(kind, wanted));
    problems.throw_if_any();
  }
  return read<Spec>(Document::parse_file(file), ReadOptions{Sources::required, UnknownKeys::error});
}

GpuSpec PlatformFolder::gpu(const std::string& wanted, const Mark& at) const {
  return load<GpuSpec>(PlatformKind::gpu, wanted, at);
}
NodeSpec PlatformFolder::node(const std::string& wanted, const Mark& at) const {
  return load<NodeSpec>(PlatformKind::node, wanted, at);
}
ClusterSpec PlatformFolder::cluster(const std::string& wanted, const Mark& at) const {
  return load<ClusterSpec>(PlatformKind::cluster, wanted, at);
}
StackSpec PlatformFolder::stack(const std::string& wanted, const Mark& at) const {
  return load<StackSpec>(PlatformKind::stack, wanted, at);
}
CurveSpec PlatformFolder::curve(const std::string& wanted, const Mark& at) const {
  return load<CurveSpec>(PlatformKind::curve, wanted, at);
}

int Platform::gpus() const {
  int total = 0;
  for (const Part& part : parts) total += part.count * static_cast<int>(part.node.gpus.count.value);
  return total;
}

std::vector<std::string> Platform::sites() const {
  std::vector<std::string> out;
  for (const PartSpec& part : cluster.parts)
    if (out.empty() || out.back() != part.site.value_or("")) out.push_back(part.site.value_or(""));
  return out;
}

namespace {

// What the cluster's file defines under this name; null where it does not.
template <class Spec>
const Spec* defined(const std::vector<Spec>& here, const std::string& name) {
  for (const Spec& spec : here)
    if (spec.name == name) return &spec;
  return nullptr;
}

StackSpec stack_of(const PlatformFolder& folder, const ClusterSpec& cluster,
                   const std::string& wanted, const Mark& at) {
  const Sourced<std::string> by_default = cluster.stack.value_or(Sourced<std::string>("generic"));
  const std::string& name = wanted.empty() ? by_default.value : wanted;
  if (const StackSpec* own = defined(cluster.stacks, name)) return *own;
  return folder.stack(name, wanted.empty() ? by_default.mark : at);
}

}  // namespace

Platform read_platform(const PlatformFolder& folder, const std::string& cluster,
                       const std::string& stack, const Mark& cluster_at, const Mark& stack_at) {
  Platform platform;
  platform.cluster = folder.cluster(cluster, cluster_at);
  const ClusterSpec& own = platform.cluster;
  std::int64_t gpus = 0, nodes = 0;
  bool network = true;
  for (const PartSpec& part : platform.cluster.parts) {
    Platform::Part resolved;
    const NodeSpec* node = defined(own.nodes, part.node.value);
    resolved.node = node != nullptr ? *node : folder.node(part.node.value, part.node.mark);
    const Sourced<std::string>& model = resolved.node.gpus.model;
    const GpuSpec* gpu = defined(own.gpus, model.value);
    resolved.gpu = gpu != nullptr ? *gpu : folder.gpu(model.value, model.mark);
    resolved.count = static_cast<int>(part.count.value);
    nodes += part.count.value;
    gpus += part.count.value * resolved.node.gpus.count.value;
    network = network && resolved.node.nics.has_value();
    Problems problems;
    if (resolved.node.scale_up && !resolved.gpu.link.scale_up)
      problems.add(part.node.mark,
                   fmt::format("node {} joins its GPUs, but {} has no link.scale_up",
                               resolved.node.name, resolved.gpu.name));
    if (gpus > 10'000'000)
      problems.add(part.count.mark, "more than 10 million GPUs in one cluster");
    problems.throw_if_any();
    platform.parts.push_back(std::move(resolved));
  }
  if (nodes > 1 && !network) {
    Problems problems;
    problems.add(platform.cluster.parts.front().node.mark,
                 fmt::format("cluster {} has several nodes, but not all of them have nics",
                             platform.cluster.name));
    problems.throw_if_any();
  }
  if (own.fabric.topology == "simgrid") {
    BytesPerSecond fastest(0);
    for (const Platform::Part& part : platform.parts)
      if (part.node.nics)
        fastest =
            std::max(fastest, part.node.nics->bandwidth.value * part.node.nics->achieved.value);
    read_simgrid_fabric(platform.cluster.fabric, nodes, fastest);
  }
  for (const auto& name : own.collectives.curves) {
    const CurveSpec* curve = defined(own.curves, name.value);
    platform.curves.push_back(curve != nullptr ? *curve : folder.curve(name.value, name.mark));
  }
  platform.stack = stack_of(folder, own, stack, stack_at);
  return platform;
}

namespace {

// Calls `each` for the measured tables of the platform, of kernels and of collectives.
template <class AnyPlatform, class Each>
void for_each_table(AnyPlatform& platform, const Each& each) {
  for (auto& part : platform.parts)
    for (auto& table : part.gpu.measured) each(table);
  for (auto& table : platform.cluster.collectives.measured) each(table);
}

bool knows_error(const auto& table) { return table.error && table.error->held_back > 0; }

}  // namespace

bool has_measured_error(const Platform& platform) {
  bool known = false;
  for_each_table(platform, [&known](const auto& table) { known = known || knows_error(table); });
  return known;
}

Platform at_band_end(Platform platform, int side) {
  for_each_table(platform, [side](auto& table) {
    if (!knows_error(table)) return;
    const double factor = std::max(0.1, 1 + side * table.error->band());
    for (Seconds& time : table.times) time = time * factor;
    table.error.reset();
  });
  return platform;
}

}  // namespace orrery
