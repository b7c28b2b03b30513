// Collectives on the links of clusters: what groups share, and that fidelities agree.
#include <doctest/doctest.h>

#include "platforms/cluster.hpp"
#include "tests/sim/simulate.hpp"
#include "tests/support/near.hpp"

namespace orrery {

namespace {

struct Case {
  const char* cluster = "two-dgx-a100";
  int gpus = 0;  // all
  int tensor = 1;
  Fidelity fidelity = Fidelity::automatic;
  double delay = -1;  // of a second collective over the same group, in microseconds; < 0: none
  std::int64_t bytes = 1 << 28;
  Collective kind = Collective::all_reduce;
};

// All ranks reduce over `replicate`, whose groups are as many as there are tensor ranks.
std::uint64_t picoseconds(const Case& c) {
  return std::stoull(in_child([=] {
    const Cluster cluster(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), c.cluster), c.gpus);
    WorldOptions world;
    world.grid.set(Axis::tensor, c.tensor).set(Axis::replicate, cluster.gpus() / c.tensor);
    SimOptions options;
    options.machine = &cluster;
    options.fidelity = c.fidelity;
    const RunReport report = make_sim_world(world, options)->run([&](Rank& rank) {
      Channel* channels[2] = {&rank.channel(Axis::replicate, "one"),
                              &rank.channel(Axis::replicate, "two")};
      Stream* streams[2] = {&rank.stream("one"), &rank.stream("two")};
      for (int i = 0; i < (c.delay < 0 ? 1 : 2); ++i) {
        Stream& stream = *streams[i];
        if (i == 1) stream.launch(timed(rank, "later", c.delay));
        Tensor x = rank.allocate(stream, Label::gradients, c.bytes / 4, Dtype::fp32);
        if (c.kind == Collective::all_to_all)
          stream.all_to_all(rank.allocate(stream, Label::gradients, c.bytes / 4, Dtype::fp32), x,
                            *channels[i]);
        else
          stream.all_reduce(x, Reduce::sum, *channels[i]);
      }
    });
    return std::to_string(report.end.picoseconds);
  }));
}

double ratio(Case a, Fidelity one, Fidelity other) {
  a.fidelity = one;
  Case b = a;
  b.fidelity = other;
  return static_cast<double>(picoseconds(a)) / static_cast<double>(picoseconds(b));
}

// Two rings on one uniform machine, the second `delay` later.
std::uint64_t two_rings(int ranks, std::int64_t delay_us, Fidelity fidelity) {
  return std::stoull(in_child([=] {
    Simulation simulation(ranks);
    simulation.options.fidelity = fidelity;
    const RunReport report = simulation.run([&](Rank& rank) {
      Channel* channels[2] = {&rank.channel(Axis::replicate, "one"),
                              &rank.channel(Axis::replicate, "two")};
      Stream* streams[2] = {&rank.stream("one"), &rank.stream("two")};
      for (int i = 0; i < 2; ++i) {
        if (i == 1) streams[i]->launch(timed(rank, "later", static_cast<double>(delay_us)));
        streams[i]->all_reduce(
            rank.allocate(*streams[i], Label::gradients, 64'000'000, Dtype::fp32), Reduce::sum,
            *channels[i]);
      }
    });
    return std::to_string(report.end.picoseconds);
  }));
}

}  // namespace

TEST_CASE("groups on ports of their own have all of them, groups that share a port half") {
  // Groups {i, i + 8}: on DGX A100 every GPU has a port, on p4de two share one.
  Case c{"two-dgx-a100", 0, 8};
  CHECK(ratio(c, Fidelity::automatic, Fidelity::analytic) == doctest::Approx(1).epsilon(1e-9));
  c.cluster = "two-p4de";
  const double shared = ratio(c, Fidelity::automatic, Fidelity::analytic);
  CHECK(shared > 1.5);
  CHECK(shared < 2);
  // What the siblings share is what flows find out.
  CHECK(ratio(c, Fidelity::automatic, Fidelity::flow) == doctest::Approx(1).epsilon(1e-6));
}

TEST_CASE("alone, an all-reduce and an all-to-all take the same time in every fidelity") {
  for (const Collective kind : {Collective::all_reduce, Collective::all_to_all})
    for (const int gpus : {4, 16, 32}) {
      CAPTURE(gpus);
      CAPTURE(name(kind));
      Case c{"four-dgx-a100", gpus};
      c.kind = kind;
      CHECK(ratio(c, Fidelity::flow, Fidelity::analytic) == doctest::Approx(1).epsilon(1e-3));
    }
  // Rings of one GPU per node, and one inside a node.
  for (const Case& c : {Case{"four-dgx-a100", 0, 8}, Case{"two-dgx-a100", 8}})
    CHECK(ratio(c, Fidelity::messages, Fidelity::analytic) == doctest::Approx(1).epsilon(0.02));
  // Where only some links of a ring are slow, single messages hide latencies behind each other.
  const double mixed = ratio({"four-dgx-a100"}, Fidelity::messages, Fidelity::analytic);
  CHECK(mixed > 0.6);
  CHECK(mixed < 1.02);
}

TEST_CASE("contended rings of 2 to 64 ranks: flows are within 5 % of single messages") {
  for (const int ranks : {2, 3, 8, 16, 33, 64})
    for (const int part : {0, 3}) {  // tenths of the time of one, by which the second comes later
      CAPTURE(ranks);
      CAPTURE(part);
      // 2(P-1)(2 us + 256 MB / P / 50 GB/s)
      const auto alone = static_cast<std::int64_t>(2 * (ranks - 1) * (2 + 5120.0 / ranks));
      const auto flow = two_rings(ranks, alone * part / 10, Fidelity::flow);
      const auto messages = two_rings(ranks, alone * part / 10, Fidelity::messages);
      CHECK(static_cast<double>(flow) / static_cast<double>(messages) ==
            doctest::Approx(1).epsilon(0.05));
    }
}

TEST_CASE("two collectives of one group at once share its links, in flows as in messages") {
  Case c{"four-dgx-a100", 0, 8};
  c.delay = 0;
  CHECK(ratio(c, Fidelity::flow, Fidelity::analytic) > 1.5);
  CHECK(ratio(c, Fidelity::flow, Fidelity::messages) == doctest::Approx(1).epsilon(0.05));
}

TEST_CASE("two sites train in the time that compute, sites and line add up to") {
  const Case c{"two-sites-h100", 64};
  const Cluster cluster(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), c.cluster));
  std::vector<int> all, site;
  for (int i = 0; i < 64; ++i) all.push_back(i);
  site.assign(all.begin(), all.begin() + 32);
  const Bytes size(c.bytes);
  const double inside = (cluster.plan(Collective::reduce_scatter, size, site).total +
                         cluster.plan(Collective::all_gather, size, site).total)
                            .seconds()
                            .value;
  const double line =
      2 * cluster.latency(0, 32).seconds().value + static_cast<double>(size.value) / 50e9;
  CHECK(static_cast<double>(picoseconds(c)) * 1e-12 == near(inside + line, 1e-6));
}

TEST_CASE("a mixed cluster steps in the time of its slower GPUs, then of the ring through them") {
  const Cluster cluster(read_platform(PlatformFolder(ORRERY_SOURCE_DIR), "two-a100-two-h100"));
  const Kernel gemm = Kernel::gemm(8192, 8192, 8192, Dtype::bf16);
  const Time slow = cluster.kernel_time(gemm, cost(gemm), cluster.kind(0));
  const Time fast = cluster.kernel_time(gemm, cost(gemm), cluster.kind(31));
  std::vector<int> all;
  for (int i = 0; i < 32; ++i) all.push_back(i);
  const Bytes size(1 << 28);
  const Time reduced = cluster.plan(Collective::all_reduce, size, all).total;
  WorldOptions world;
  world.grid.set(Axis::replicate, 32);
  SimOptions options;
  options.machine = &cluster;
  const RunReport report = make_sim_world(world, options)->run([&](Rank& rank) {
    Channel& data = rank.channel(Axis::replicate, "gradients");
    Stream& compute = rank.stream("compute");
    Stream& comm = rank.stream("comm");
    Tensor x = rank.allocate(comm, Label::gradients, size.value / 4, Dtype::fp32);
    const Prepared kernel = rank.prepare(gemm);
    const std::int64_t square = 8192 * 8192;
    Tensor a = rank.allocate(compute, Label::parameters, square, Dtype::bf16);
    Tensor b = rank.allocate(compute, Label::activations, square, Dtype::bf16);
    Tensor c = rank.allocate(compute, Label::activations, square, Dtype::bf16);
    for (int i = 0; i < 2; ++i) compute.launch(kernel, {a, b, c});
    comm.after(compute.record());
    comm.all_reduce(x, Reduce::mean, data);
    compute.after(comm.record());
    compute.mark_step(0);
  });
  CHECK(fast * 2 < slow);
  CHECK(report.end == slow * 2 + reduced);
  CHECK(report.ranks[0].steps[0].parts.compute == slow * 2);
  CHECK(report.ranks[31].steps[0].parts.compute == fast * 2);
  CHECK(report.ranks[31].steps[0].parts.exposed_communication == (slow - fast) * 2 + reduced);
}

}  // namespace orrery
