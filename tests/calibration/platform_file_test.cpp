#include "calibration/platform_file.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

#include "backend/core/text.hpp"
#include "calibration/calibrate.hpp"
#include "platforms/cluster.hpp"
#include "tests/calibration/planted.hpp"

using namespace orrery;

namespace {

Source planted_source() {
  Source source;
  source.kind = SourceKind::measured;
  source.date = "2026-01-31";
  source.device = "planted";
  source.driver = "none";
  source.command = "a test";
  return source;
}

ClusterSpec read_back(const std::string& text) {
  return read<ClusterSpec>(Document::parse_text(text, "p.yaml"),
                           {Sources::required, UnknownKeys::error});
}

}  // namespace

TEST_CASE("a platform file reads back to what was measured") {
  const ClusterSpec made = platform_of(planted_machine(false), planted_facts(), 2, "planted");
  const std::string text = to_text(made, planted_source());
  const ClusterSpec read = read_back(text);
  CHECK(read.gpus[0].measured == made.gpus[0].measured);
  CHECK(read.collectives.measured == made.collectives.measured);
  CHECK(read.gpus[0].compute.peak.fp32->value == made.gpus[0].compute.peak.fp32->value);
  CHECK(read.gpus[0].compute.peak.fp32->source == planted_source());
  CHECK(read.gpus[0].compute.gemm.edge.source->kind == SourceKind::fitted);
  CHECK(read.stacks[0].host.wait.value == Seconds(3e-6));
  CHECK(read.stacks[0].host.communicate.value == Seconds(2e-7));
  CHECK(read.stacks[0].host.control_latency.value == Seconds(4e-6));
  for (const std::string& line : split(text, '\n')) CHECK(line.size() <= 120);
}

TEST_CASE("memory and cores are the machine's, the fastest rates its peaks") {
  const ClusterSpec made = platform_of(planted_machine(false), planted_facts(), 2, "planted");
  CHECK(made.nodes[0].gpus.count.value == 4);
  CHECK(made.gpus[0].memory.capacity.value == Bytes(2'000'000'000));
  CHECK(made.gpus[0].compute.peak.fp32->value.value == 2 * planted_rate);  // 2 FLOP per m n k
  CHECK(made.gpus[0].link.scale_up->bandwidth_per_direction.value.value ==
        doctest::Approx(1e5 / 101e-6).epsilon(1e-6));
  const ClusterSpec crowded = platform_of(planted_machine(true), planted_facts(), 8, "planted");
  CHECK(crowded.nodes[0].gpus.count.value == 8);
  CHECK(crowded.gpus[0].memory.capacity.value == Bytes(1'000'000'000));
  CHECK(crowded.nodes[0].cores->value == 4);
}

TEST_CASE("a cluster made from a platform file prices kernels and collectives as measured") {
  const auto dir = std::filesystem::temp_directory_path() / "orrery_calibration_test";
  std::filesystem::create_directories(dir);
  const std::string file = (dir / "planted.yaml").string();
  write_file_atomically(file,
                        to_text(platform_of(planted_machine(false), planted_facts(), 2, "planted"),
                                planted_source()));
  for (const int gpus : {1, 2}) {
    const Cluster cluster(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), file), gpus);
    CHECK(cluster.platform().stack.name == "planted-stack");
    const Kernel gemm = Kernel::gemm(64, 128, 256, Dtype::fp32);
    CHECK(cluster.kernel_time(gemm, cost(gemm), 0).picoseconds ==
          64ULL * 128 * 256 * 1000 * static_cast<unsigned>(gpus));
    CHECK(cluster.processor(0)->cores == 4);
    CHECK(cluster.processor(0)->busy == gpus);  // the threads of the table that answers
    CHECK(cluster.assumptions().empty());
  }
  const Cluster pair(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), file), 2);
  CHECK(pair.plan(Collective::all_reduce, Bytes(1000), {0, 1}).total.picoseconds == 2'000'000);
  CHECK(pair.host(0).launch.picoseconds == 100'000);
  std::filesystem::remove_all(dir);
}

TEST_CASE("a machine with one rank makes a platform without collectives") {
  Measurements alone = planted_machine(true);
  alone.collectives.clear();
  alone.host.communicate.clear();
  alone.host.control.clear();
  MachineFacts facts = planted_facts();
  facts.cores = 1;
  const ClusterSpec made = platform_of(alone, facts, 1, "alone");
  CHECK_FALSE(made.nodes[0].scale_up);
  CHECK(read_back(to_text(made, planted_source())).nodes[0].gpus.count.value == 1);
  CHECK(made.stacks[0].host.communicate.source->kind == SourceKind::assumed);
}

TEST_CASE("errors are reported per table, kernels before collectives") {
  const ClusterSpec made = platform_of(planted_machine(true), planted_facts(), 2, "planted");
  const auto errors = class_errors(made);
  CHECK(errors.size() == made.gpus[0].measured.size() + made.collectives.measured.size());
  CHECK(errors.front().name == "gemm nn fp32, 1 busy");
  CHECK(errors.back().name == "send of 2");
}

TEST_CASE("a processor's name becomes a file name") {
  CHECK(file_name_of("Intel(R) Xeon(R) Processor @ 2.50GHz") == "intel-xeon-processor-2-50ghz");
  CHECK(file_name_of("(R)") == "processor");
  const MachineFacts facts = machine_facts();
  CHECK(facts.cores >= 1);
  CHECK(facts.memory.value > 0);
  CHECK(facts.date.size() == 10);
}
