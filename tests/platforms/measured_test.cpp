// Measured tables: between their points, outside them, and in a cluster.
#include "platforms/measured.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "backend/core/error.hpp"
#include "platforms/cluster.hpp"
#include "tests/platforms/own_folder.hpp"
#include "tests/support/near.hpp"

using namespace orrery;

namespace {

std::uint64_t picoseconds(const TableAnswer& answer) { return to_time(answer.time).picoseconds; }

// m in {16, 64}, n in {32, 128}, k in {8}: the times grow with every size, more slowly than work.
const MeasuredTableSpec gemms{"gemm nn fp32",
                              1,
                              {{"m", {16, 64}}, {"n", {32, 128}}, {"k", {8}}},
                              {Seconds(1e-6), Seconds(3e-6), Seconds(2.000001e-6), Seconds(7e-6)},
                              std::nullopt};

TableAnswer at(double m, double n, double k) {
  const std::array place{m, n, k};
  return read_table(gemms, place, m * n * k);
}

// A cluster of one node with two cores that has these tables.
Platform with_tables(std::vector<MeasuredTableSpec> tables,
                     std::vector<CollectiveTableSpec> collectives = {}) {
  Platform platform = read_platform(folder, "this-cpu", "cpu-world");
  platform.parts[0].gpu.measured = std::move(tables);
  platform.cluster.collectives.measured = std::move(collectives);
  return platform;
}

Time time_on(const Cluster& cluster, const Kernel& kernel) {
  return cluster.kernel_time(kernel, cost(kernel), 0);
}

}  // namespace

TEST_CASE("a point of a table gives its own time, to the picosecond") {
  CHECK(picoseconds(at(16, 32, 8)) == 1'000'000);
  CHECK(picoseconds(at(16, 128, 8)) == 3'000'000);
  CHECK(picoseconds(at(64, 32, 8)) == 2'000'001);
  CHECK(picoseconds(at(64, 128, 8)) == 7'000'000);
}

TEST_CASE("halfway between points, in logarithms, the time is the geometric mean") {
  CHECK(at(16, 64, 8).time.value == doctest::Approx(std::sqrt(3.0) * 1e-6).epsilon(1e-12));
  CHECK(at(32, 64, 8).time.value ==
        doctest::Approx(std::pow(1.0 * 3 * 2.000001 * 7, 0.25) * 1e-6).epsilon(1e-12));
}

TEST_CASE("between points the time ascends and stays within theirs") {
  Seconds last(0);
  for (int n = 32; n <= 128; ++n) {
    const TableAnswer answer = at(16, n, 8);
    CHECK(answer.time > last);
    CHECK(answer.time >= Seconds(1e-6));
    CHECK(answer.time <= Seconds(3e-6));
    CHECK(answer.outside == nullptr);
    last = answer.time;
  }
}

TEST_CASE("outside the grid the rate of the edge holds, and the answer names the axis") {
  const TableAnswer wide = at(64, 1280, 8);
  CHECK(wide.time.value == doctest::Approx(70e-6).epsilon(1e-12));
  REQUIRE(wide.outside != nullptr);
  CHECK(*wide.outside == "n");
  CHECK(wide.value == 1280);
  const TableAnswer small = at(16, 32, 2);
  CHECK(small.time.value == doctest::Approx(0.25e-6).epsilon(1e-12));
  CHECK(*small.outside == "k");
}

TEST_CASE("attention's work grows with the square of the sequence, and with heads and samples") {
  const MeasuredTableSpec table{"attention causal fp32",
                                1,
                                {{"sequence", {64}}, {"head", {32}}},
                                {Seconds(1e-6)},
                                std::nullopt};
  const auto time = [&](const Kernel& kernel) {
    const auto place = place_of(kernel);
    REQUIRE(place->kernels == table.kernels);
    return read_table(table, place->at, place->work).time.value;
  };
  CHECK(time(Kernel::attention(3, 4, 4, 64, 32, true, Dtype::fp32)) == near(12e-6, 1e-6));
  CHECK(time(Kernel::attention(1, 1, 1, 128, 32, true, Dtype::fp32)) == near(4e-6, 1e-6));
}

TEST_CASE("the class of a kernel is its operation and what decides its speed") {
  const auto name_of = [](const Kernel& kernel) { return place_of(kernel)->kernels; };
  CHECK(name_of(Kernel::gemm(2, 3, 4, Dtype::fp32)) == "gemm nn fp32");
  CHECK(name_of(Kernel::gemm(2, 3, 4, Dtype::bf16, true, false, true)) ==
        "gemm tn accumulate bf16");
  CHECK(name_of(Kernel::gemm_bias(2, 3, 4, Dtype::fp32)) == "gemm nn bias fp32");
  CHECK(name_of(Kernel::norm_backward(2, 3, Norm::layer, 1e-5, true, Dtype::fp32)) ==
        "norm_backward layer fp32");
  CHECK(name_of(Kernel::bias_activation(2, 3, Activation::gelu, Dtype::fp32)) ==
        "bias_activation gelu fp32");
  CHECK(name_of(Kernel::sgd(2, 1, 0.9, false, 0, Dtype::fp32)) == "sgd momentum fp32");
  CHECK(name_of(Kernel::cast(2, Dtype::fp32, Dtype::bf16)) == "cast fp32 bf16");
  CHECK_FALSE(place_of(Kernel::timed("t", Seconds(1))));
}

TEST_CASE("a table of a collective gives its times, and beyond the largest size its rate") {
  const CollectiveTableSpec table{"all_reduce",
                                  2,
                                  {Bytes(0), Bytes(1000), Bytes(4000)},
                                  {Seconds(10e-6), Seconds(20e-6), Seconds(80e-6)},
                                  std::nullopt};
  const auto time = [&](std::int64_t size) { return read_table(table, Bytes(size)).time.value; };
  CHECK(time(0) == 10e-6);
  CHECK(time(500) == doctest::Approx(15e-6).epsilon(1e-12));
  CHECK(time(1000) == 20e-6);
  CHECK(time(2000) == doctest::Approx(40e-6).epsilon(1e-12));
  CHECK(time(8000) == doctest::Approx(160e-6).epsilon(1e-12));
  CHECK(read_table(table, Bytes(8000)).outside != nullptr);
  CHECK(read_table(table, Bytes(4000)).outside == nullptr);
}

TEST_CASE("of the tables of a class those with enough busy devices answer, else the busiest") {
  const auto busy = [](std::int64_t n) {
    MeasuredTableSpec table = gemms;
    table.busy = n;
    return table;
  };
  const std::vector<MeasuredTableSpec> tables{busy(4), busy(1), busy(2)};
  for (const auto& [devices, chosen] :
       std::vector<std::pair<int, int>>{{1, 1}, {2, 2}, {3, 4}, {4, 4}, {9, 4}}) {
    const auto found = tables_for(tables, devices);
    REQUIRE(found.size() == 1);
    CHECK(found[0]->busy == chosen);
  }
}

TEST_CASE("a cluster answers from its tables, and from formulas where it has none") {
  const Cluster plain(with_tables({}), 2);
  const Cluster measured(with_tables({gemms}), 2);
  const Kernel known = Kernel::gemm(64, 32, 8, Dtype::fp32);
  const Kernel other = Kernel::gemm(64, 32, 8, Dtype::fp32, false, true);
  CHECK(time_on(measured, known).picoseconds == 2'000'001);
  CHECK(time_on(measured, other) == time_on(plain, other));
  for (const Assumption& a : measured.assumptions()) CHECK(a.path.find("measured") == a.path.npos);
  time_on(measured, Kernel::gemm(64, 32, 80, Dtype::fp32));
  bool flagged = false;
  for (const Assumption& a : measured.assumptions())
    flagged = flagged || (a.path == "gpus/cpu-core.yaml: measured 'gemm nn fp32', k" &&
                          a.value == "80" && a.reason.find("outside") != a.reason.npos);
  CHECK(flagged);
}

TEST_CASE("measured collectives answer for groups of their size inside a node, messages too") {
  const Cluster cluster(
      with_tables({}, {{"all_reduce", 2, {Bytes(8)}, {Seconds(5e-6)}, std::nullopt},
                       {"send", 2, {Bytes(8)}, {Seconds(3e-6)}, std::nullopt}}),
      3);
  const Cluster plain(with_tables({}), 3);
  const CollectivePlan pair = cluster.plan(Collective::all_reduce, Bytes(8), {0, 1});
  CHECK(pair.total.picoseconds == 5'000'000);
  CHECK(std::string(pair.algorithm) == "measured");
  CHECK(cluster.plan(Collective::all_reduce, Bytes(8), {0, 1, 2}).total ==
        plain.plan(Collective::all_reduce, Bytes(8), {0, 1, 2}).total);
  CHECK(cluster.message_time(0, 1, Bytes(8)).picoseconds == 3'000'000);
  CHECK(plain.message_time(0, 1, Bytes(8)) ==
        plain.latency(0, 1) + to_time(Bytes(8) / plain.bandwidth(0, 1)));
}

TEST_CASE("a table whose axes are not those of its class is refused where it is asked") {
  MeasuredTableSpec wrong = gemms;
  wrong.axes = {{"elements", {1, 2, 3, 4}}};
  const Cluster cluster(with_tables({wrong}), 1);
  CHECK_THROWS_AS(time_on(cluster, Kernel::gemm(64, 32, 8, Dtype::fp32)), Error);
}

TEST_CASE("tables that cannot be read say why") {
  const auto message = [](const std::string& yaml) -> std::string {
    try {
      read<MeasuredTableSpec>(Document::parse_text(yaml, "t.yaml"),
                              {Sources::required, UnknownKeys::error});
    } catch (const ConfigError& e) {
      return e.messages.front().text;
    }
    return "";
  };
  const std::string head = "{source: {kind: assumed}, kernels: fill fp32, busy: 1, axes: [{name: ";
  CHECK(message(head + "elements, at: [1, 2]}], times: [1us, 2us]}") == "");
  CHECK(message(head + "elements, at: [1, 2]}], times: [1us]}").find("1 times for 2 points") !=
        std::string::npos);
  CHECK(message(head + "elements, at: [2, 1]}], times: [1us, 2us]}").find("ascend") !=
        std::string::npos);
  CHECK(message(head + "elements, at: [1, 2]}], times: [1us, 0s]}").find("not positive") !=
        std::string::npos);
  CHECK(message(head + "length, at: [1]}], times: [1us]}") != "");
}

TEST_CASE("the band moves the tables whose error is known, both ways by the same share") {
  MeasuredTableSpec known = gemms;
  known.error = MeasuredErrorSpec{20, 5, 0.02, 0.05, 0.03, 0.01, 0.04};
  CHECK(known.error->band() == doctest::Approx(0.05).epsilon(1e-12));
  MeasuredTableSpec unknown = gemms;
  unknown.kernels = "gemm nt fp32";
  const Platform platform = with_tables({known, unknown});
  CHECK(has_measured_error(platform));
  CHECK_FALSE(has_measured_error(with_tables({unknown})));
  const Platform low = at_band_end(platform, -1), high = at_band_end(platform, 1);
  CHECK(low.parts[0].gpu.measured[0].times[0].value == doctest::Approx(0.95e-6).epsilon(1e-12));
  CHECK(high.parts[0].gpu.measured[0].times[0].value == doctest::Approx(1.05e-6).epsilon(1e-12));
  CHECK(high.parts[0].gpu.measured[1].times == unknown.times);
  CHECK_FALSE(has_measured_error(low));
}

TEST_CASE("one file can define the whole platform that its cluster names") {
  const auto dir = std::filesystem::temp_directory_path() / "orrery_whole_platform_test";
  std::filesystem::create_directories(dir);
  const std::string file = (dir / "mine.yaml").string();
  Platform platform = read_platform(folder, "this-cpu", "cpu-world");
  ClusterSpec cluster = platform.cluster;
  cluster.name = "mine";
  cluster.nodes = {platform.parts[0].node};
  cluster.nodes[0].name = cluster.parts[0].node.value = "my-node";
  cluster.gpus = {platform.parts[0].gpu};
  cluster.gpus[0].name = cluster.nodes[0].gpus.model.value = "my-core";
  cluster.stacks = {platform.stack};
  cluster.stacks[0].name = "my-stack";
  cluster.stack = Sourced<std::string>("my-stack");
  std::ofstream(file) << resolved_yaml(cluster);
  const Platform read = read_platform(folder, file);
  CHECK(read.parts[0].node.name == "my-node");
  CHECK(read.parts[0].gpu.name == "my-core");
  CHECK(read.stack.name == "my-stack");
  CHECK(read_platform(folder, file, "generic").stack.name == "generic");
  CHECK(read_platform(folder, "this-cpu").stack.name == "generic");
  std::filesystem::remove_all(dir);
}
