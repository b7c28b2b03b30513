// What rules folding out is refused, with the reason and the call site.
#include <doctest/doctest.h>

#include <cstdlib>
#include <sstream>

#include "backend/core/text.hpp"
#include "tests/sim/hybrid_program.hpp"

namespace orrery {
namespace {

HybridCase four_replicas(World::Program program) {
  return {.plan = {.data = 4}, .program = std::move(program)};
}

// A line of this file, by the number that an error names.
std::string named_line(const std::string& text) {
  const std::string file = "folding_test.cpp:";
  const std::size_t at = text.find(file);
  if (at == std::string::npos) return "no line";
  int number = std::atoi(text.c_str() + at + file.size());
  std::istringstream lines(
      read_file(std::string(ORRERY_SOURCE_DIR) + "/tests/sim/folding_test.cpp"));
  std::string line;
  while (number-- > 0) std::getline(lines, line);
  return line;
}

// The refusal to fold names the reason and the line that holds `call`; unfolded, the program runs.
void check_refused(const HybridCase& c, const std::string& reason, const std::string& call) {
  const std::string text = in_child([&] {
    try {
      c.run(Execution::folded);
    } catch (const Error& error) {
      return std::string(name(error.category())) + ": " + error.what();
    }
    return std::string("not refused");
  });
  CAPTURE(text);
  CHECK(text.find("config: ") == 0);
  CHECK(text.find(reason) != std::string::npos);
  if (!call.empty()) CHECK(named_line(text).find(call) != std::string::npos);
  CHECK(first_line(c.text(Execution::automatic)) == std::to_string(c.plan.ranks()) + " ranks");
}

Stream& compute(Rank& rank) { return rank.stream("compute"); }
Event work(Rank& rank) {
  compute(rank).launch(timed(rank, "work", 5));
  return compute(rank).record();
}

TEST_CASE("a program that asks for its number is not folded") {
  check_refused(four_replicas([](Rank& rank) { rank.id(); }), "asks for its number", "rank.id()");
}

TEST_CASE("a program that asks for its coordinate on every axis is not folded") {
  check_refused(four_replicas([](Rank& rank) { rank.coordinate(Axis::replicate); }),
                "asks for its coordinate along replicate", "rank.coordinate(");
}

TEST_CASE("a program that asks for its place in a group is not folded") {
  check_refused(
      four_replicas([](Rank& rank) { rank.channel(Axis::replicate, "gradients").index(); }),
      "asks for its coordinate along replicate", "index()");
}

TEST_CASE("a program that asks for the time is not folded") {
  check_refused(four_replicas([](Rank& rank) { rank.now(); }), "asks for the time", "rank.now()");
}

TEST_CASE("a program that polls is not folded") {
  check_refused(four_replicas([](Rank& rank) { rank.poll(work(rank)); }), "asks for the time",
                "rank.poll(");
}

TEST_CASE("a program that waits for a time at most is not folded") {
  check_refused(four_replicas([](Rank& rank) { rank.wait(work(rank), us(1)); }),
                "asks for the time", "us(1))");
}

TEST_CASE("a program that waits for the first of several events is not folded") {
  check_refused(four_replicas([](Rank& rank) {
                  const Event events[2] = {work(rank), work(rank)};
                  rank.wait_any(events);
                }),
                "asks for the time", "wait_any(");
}

TEST_CASE("a program that sleeps is not folded") {
  check_refused(four_replicas([](Rank& rank) { rank.sleep(us(3)); }), "asks for the time",
                "rank.sleep(");
}

TEST_CASE("a program with random numbers of each rank is not folded") {
  check_refused(four_replicas([](Rank& rank) { rank.rng(Purpose::jitter); }),
                "asks for its own random numbers", "rank.rng(");
}

TEST_CASE("a program that reads values is not folded") {
  check_refused(four_replicas([](Rank& rank) {
                  const Tensor count = rank.allocate(compute(rank), Label::activations, 1,
                                                     Dtype::fp32, {.values = Values::always});
                  compute(rank).upload(count, {1.0});
                  rank.read(count);
                }),
                "asks for values", "rank.read(");
}

TEST_CASE("a program that writes values is not folded") {
  check_refused(four_replicas([](Rank& rank) {
                  const Tensor count = rank.allocate(compute(rank), Label::activations, 1,
                                                     Dtype::fp32, {.values = Values::always});
                  const std::vector<std::byte> bytes(4);
                  rank.write_bytes(count, bytes);
                }),
                "asks for values", "rank.write_bytes(");
}

TEST_CASE("a program that forks a flow is not folded") {
  check_refused(four_replicas([](Rank& rank) { rank.join(rank.fork("second", [] {})); }),
                "asks for a second flow", "rank.fork(");
}

TEST_CASE("a program that sends control messages is not folded") {
  check_refused(four_replicas([](Rank& rank) {
                  const int next = (rank.part(Axis::replicate) + 1) % 4;
                  rank.control_send(next, 1, {7});
                  rank.control_receive(1);
                }),
                "asks for control messages", "rank.control_send(");
}

TEST_CASE("a program that names the peer of an exchange is not folded") {
  check_refused(four_replicas([](Rank& rank) {
                  Channel& all = rank.channel(Axis::replicate, "pairs");
                  const Tensor x = rank.allocate(compute(rank), Label::activations, 8, Dtype::fp32);
                  const Tensor y = rank.allocate(compute(rank), Label::activations, 8, Dtype::fp32);
                  const int peer = rank.part(Axis::replicate) ^ 1;
                  compute(rank).exchange(x, y, peer, all);
                }),
                "asks for its coordinate along replicate", "exchange(");
}

TEST_CASE("a program that does more for one part than for another is not folded") {
  check_refused(four_replicas([](Rank& rank) {
                  for (int i = 0; i <= rank.part(Axis::replicate); ++i) work(rank);
                }),
                "ranks issue different operations for their parts along replicate", "");
}

TEST_CASE("ranks on GPUs that differ in speed are not folded") {
  HybridCase c = four_replicas(hybrid_program);
  c.variability = sim::Variability({1, 1, 1.5, 1}, 0, 1);
  check_refused(c, "its GPUs differ or jitter", "");
}

TEST_CASE("ranks whose kernels jitter are not folded") {
  HybridCase c = four_replicas(hybrid_program);
  c.variability = sim::Variability({}, 0.01, 1);
  check_refused(c, "its GPUs differ or jitter", "");
}

TEST_CASE("ranks that the platform tells apart are not folded") {
  check_refused({.plan = {.data = 4}, .per_node = 1, .kinds = 4},
                "the platform treats no two ranks alike", "");
}

TEST_CASE("what flows would add to a folded run is nothing: alone, they take the plan's time") {
  const auto reduce = [](Rank& rank) {
    Stream& comm = rank.stream("comm");
    const Tensor x = rank.allocate(comm, Label::gradients, 4'000'000, Dtype::fp32);
    for (int step = 0; step < 3; ++step) {
      compute(rank).after(comm.record());
      compute(rank).launch(timed(rank, "work", 5));
      comm.after(compute(rank).record());
      comm.all_reduce(x, Reduce::mean, rank.channel(Axis::replicate, "gradients"));
      comm.mark_step(step);
    }
  };
  HybridCase c = four_replicas(reduce);
  const auto ends = [&c](Execution execution, Fidelity fidelity) {
    c.fidelity = fidelity;
    return in_child([&] {
      const RunReport report = c.run(execution);
      return std::to_string(report.end.picoseconds) + " " + std::to_string(report.ranks.distinct());
    });
  };
  const std::string folded = ends(Execution::folded, Fidelity::analytic);
  CHECK(folded.ends_with(" 1"));
  const std::string end = folded.substr(0, folded.find(' '));
  CHECK(ends(Execution::unfolded, Fidelity::flow) == end + " 4");
  CHECK(ends(Execution::unfolded, Fidelity::messages) == end + " 4");
}

TEST_CASE("what runs beside the program, or is kept of it, rules folding out") {
  const auto refused = [](const std::function<void(WorldOptions&, SimOptions&, bool&)>& change) {
    return in_child([&] {
      UniformSpec spec;
      spec.gpus = 2;
      const UniformMachine machine(spec);
      WorldOptions world;
      world.grid.set(Axis::replicate, 2);
      SimOptions options;
      options.machine = &machine;
      options.execution = Execution::folded;
      bool service = false;
      change(world, options, service);
      try {
        const auto simulated = make_sim_world(world, options);
        if (service) simulated->add_service("tracker", [](Service&) {});
        simulated->run([](Rank& rank) { work(rank); });
      } catch (const Error& error) {
        return std::string(error.what());
      }
      return std::string("not refused");
    });
  };
  CHECK(refused([](WorldOptions&, SimOptions&, bool&) {}) == "not refused");
  CHECK(refused([](WorldOptions& world, SimOptions&, bool&) {
          world.real_values = true;
        }).find("the run computes values") != std::string::npos);
  CHECK(refused([](WorldOptions&, SimOptions&, bool& service) {
          service = true;
        }).find("the run has services") != std::string::npos);
  CHECK(refused([](WorldOptions& world, SimOptions&, bool&) {
          world.decisions = DecisionMode::record;
        }).find("records or replays decisions") != std::string::npos);
  CHECK(refused([](WorldOptions&, SimOptions& sim, bool&) {
          sim.fidelity = Fidelity::flow;
        }).find("each of its transfers shares links with those of all ranks") != std::string::npos);
  CHECK(refused([](WorldOptions&, SimOptions& sim, bool&) {
          sim.groups.push_back({"replicate", Fidelity::messages});
        }).find("each of its transfers shares links with those of all ranks") != std::string::npos);
}

}  // namespace
}  // namespace orrery
