// Fuzzes the readers of platforms: the input is a GPU, a node, a cluster, a stack or a curve, told
// by its keys, and takes that place in a cluster of two nodes. Whatever the input, reading gives a
// ConfigError whose messages lie in the text, or a cluster on which kernels and collectives take a
// time, or say what the device cannot do.
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "platforms/cluster.hpp"
#include "tests/fuzz/invariants.hpp"
#include "tests/fuzz/yaml_mutator.hpp"

using namespace orrery;
using fuzz::require;

namespace {

// A few small files, which read faster than those that users get.
const std::string root = ORRERY_SOURCE_DIR "/tests/fuzz/data";

const Platform& two_nodes() {
  static const Platform platform = read_platform(PlatformFolder(root), "two-dgx-a100");
  return platform;
}

// The planted build looks for its crash alone, at several times the speed.
#ifdef ORRERY_FUZZ_PLANTED
constexpr bool only_planted = true;
#else
constexpr bool only_planted = false;
#endif

// Needs a file that is valid throughout with a unit that no seed has at one of its times.
void planted([[maybe_unused]] const Platform& platform) {
#ifdef ORRERY_FUZZ_PLANTED
  const HostSpec& host = platform.stack.host;
  std::vector<Seconds> times{host.launch.value,
                             host.communicate.value,
                             host.wait.value,
                             host.control_latency.value,
                             platform.cluster.fabric.hop_latency.value,
                             platform.parts[0].gpu.compute.gemm.launch.value};
  for (const CurveSpec& curve : platform.curves) times.push_back(curve.alpha.value);
  if (platform.parts[0].node.nics) times.push_back(platform.parts[0].node.nics->latency.value);
  for (const Seconds time : times)
    if (time >= Seconds(1e-3)) std::abort();
#endif
}

template <class Spec>
Spec read_part(const Document& document) {
  return read<Spec>(document, ReadOptions{Sources::required, UnknownKeys::error});
}

// A cluster names other files, so it is read as the program reads it.
Platform read_cluster(const std::string& input) {
  static const std::string path = (std::filesystem::temp_directory_path() /
                                   ("orrery_platform_fuzz_" + std::to_string(::getpid()) + ".yaml"))
                                      .string();
  std::ofstream(path, std::ios::binary) << input;
  try {
    return read_platform(PlatformFolder(root), path);
  } catch (ConfigError& error) {
    for (ConfigMessage& m : error.messages)
      if (m.file == path) m.file = "input";
    throw;
  }
}

Platform platform_with(const std::string& input) {
  const Document document = Document::parse_text(input, "input");
  const auto has = [&](const char* key) { return document.root().find(key) != nullptr; };
  Platform platform = two_nodes();
  if (has("parts")) return read_cluster(input);
  if (has("operations"))
    platform.curves = {read_part<CurveSpec>(document)};
  else if (has("host"))
    platform.stack = read_part<StackSpec>(document);
  else if (has("gpus"))
    platform.parts[0].node = read_part<NodeSpec>(document);
  else
    platform.parts[0].gpu = read_part<GpuSpec>(document);
  return platform;
}

// What a readable platform cannot do, or does so slowly that time cannot count it, is its own
// fault.
void require_its_own_fault(const Error& error) {
  require(error.category() == Category::config, "an error of another category", error.what());
}

template <typename Pricing>
void price_or_refuse(Pricing pricing) {
  try {
    pricing();
  } catch (const Error& error) {
    require_its_own_fault(error);
  }
}

void price_kernels(const Cluster& cluster) {
  for (const Kernel& kernel :
       {Kernel::gemm(4096, 4096, 4096, Dtype::bf16), Kernel::gemm(1, 1, 1, Dtype::fp32),
        Kernel::attention(1, 8, 8, 1024, 128, true, Dtype::bf16),
        Kernel::norm(1024, 4096, Norm::rms, 1e-5, Dtype::bf16),
        Kernel::cross_entropy(1024, 50257, 1, Dtype::bf16)})
    price_or_refuse([&] { cluster.kernel_time(kernel, cost(kernel), cluster.kind(0)); });
}

void price_communication(const Cluster& cluster) {
  std::vector<int> members;
  for (int g = 0; g < cluster.gpus(); ++g) members.push_back(g);
  if (members.size() < 2) return;
  for (const Bytes size : {Bytes(1), Bytes(1'000'000), Bytes(100'000'000'000)}) {
    for (const Collective kind : {Collective::all_reduce, Collective::all_gather,
                                  Collective::broadcast, Collective::all_to_all})
      price_or_refuse([&] {
        require(cluster.plan(kind, size, members).total >= Time{}, "a collective that gains time");
      });
    price_or_refuse([&] {
      const std::vector<int> ends{members.front(), members.back()};
      require(cluster.plan(Collective::send, size, ends).total >= Time{},
              "a transfer that gains time");
    });
  }
  std::vector<std::uint32_t> path;
  cluster.route(members.front(), members.back(), path);
  for (const std::uint32_t link : path)
    require(link < cluster.links().size(), "a route over a link that is not there");
  price_or_refuse([&] { cluster.latency(members.front(), members.back()); });
}

void price(const Cluster& cluster) {
  price_kernels(cluster);
  price_communication(cluster);
  cluster.assumptions();
}

constexpr std::size_t longest = 1600;

}  // namespace

extern "C" const char* __asan_default_options() { return "malloc_context_size=2"; }

extern "C" std::size_t LLVMFuzzerCustomMutator(unsigned char* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  static const fuzz::Vocabulary vocabulary{
      {"name",     "memory",        "compute",    "link",       "gpus",      "model",
       "count",    "scale_up",      "nics",       "parts",      "fabric",    "dgx-a100",
       "dgx-h100", "a100-sxm-80gb", "pcie",       "nvswitch",   "fat-tree",  "true",
       "false",    "null",          "value",      "source",     "datasheet", "measured",
       "fitted",   "assumed",       "all_reduce", "all_gather", "flash-2"},
      {"", "B", "GB", "KiB", "GBps", "Gbps", "TBps", "TFLOPS", "s", "ms", "us", "ns", "W"},
      {"source: {kind: assumed}", "parts: [{node: dgx-a100, count: 3}]", "nodes: 2",
       "operations: [all_gather]", "alpha: 1ms", "elementwise: 100", "power: {idle: 1W, peak: 2W}",
       "aliases: [a, b]", "collectives: {curves: [nccl-a100-8]}"}};
  return fuzz::mutate_yaml(vocabulary, data, std::min(size, longest), std::min(max, longest), seed);
}

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), std::min(size, longest));
  try {
    Platform platform = platform_with(input);
    planted(platform);
    fuzz::valid_inputs().keep(input);
    if (only_planted) return 0;
    require(platform.gpus() > 0, "a cluster without GPUs");
    const int gpus = std::min(platform.gpus(), 20);  // the whole of a large one takes seconds
    price(Cluster(std::move(platform), gpus));
  } catch (const ConfigError& error) {
    if (!only_planted) fuzz::check_messages(error, fuzz::without_mark(input), {});
  } catch (const Error& error) {  // a latency too long for time, for example
    require_its_own_fault(error);
  }
  return 0;
}
