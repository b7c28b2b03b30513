// A program issued once for many ranks gives what an actor per rank gives; folding too, where it is
// allowed.
#include <doctest/doctest.h>

#include <array>
#include <random>

#include "sim/simgrid/engine.hpp"
#include "tests/sim/hybrid_program.hpp"

namespace orrery {
namespace {

// However many ranks are simulated together, down to each by itself.
void check_neighbourhoods(HybridCase c, const std::string& actors) {
  for (const std::uint32_t ranks : {1u, 2u, 3u, 8u, 20u}) {
    CAPTURE(ranks);
    c.neighbourhood = ranks;
    CHECK(actors == c.text(Execution::shared));
  }
}

// Of every rank; "" where all are simulated together.
std::string neighbourhoods(HybridCase c, std::uint32_t ranks, TraceSink* trace = nullptr) {
  return in_child([&] {
    std::vector<std::uint16_t> numbers;
    c.neighbourhood = ranks;
    c.neighbourhood_of = &numbers;
    c.run(Execution::shared, trace);
    std::string text;
    for (const std::uint16_t number : numbers) text += std::to_string(number);
    return text;
  });
}

// Folded into this many ranks.
void check_alike(const HybridCase& c, const std::string& folded_into) {
  CAPTURE(c.plan.tensor);
  CAPTURE(c.plan.context);
  CAPTURE(c.plan.pipeline);
  CAPTURE(c.plan.data);
  const std::string actors = c.text(Execution::actors);
  const std::string shared = c.text(Execution::shared);
  const std::string folded = c.text(Execution::folded);
  CHECK(first_line(actors) == std::to_string(c.plan.ranks()) + " ranks");
  CHECK(actors == shared);
  CHECK(figures(actors) == figures(folded));
  check_neighbourhoods(c, actors);
  CHECK(first_line(folded) == folded_into + " ranks");
}

TEST_CASE("one rank per pipeline stage stands for all others, to the picosecond") {
  check_alike({.plan = {.data = 4}}, "1");
  check_alike({.plan = {.tensor = 2, .data = 2}}, "1");
  check_alike({.plan = {.tensor = 2, .pipeline = 3}}, "3");
  check_alike({.plan = {.context = 3, .pipeline = 2, .data = 2}}, "2");
  check_alike({.plan = {.tensor = 2, .context = 2, .pipeline = 2, .data = 2}}, "2");
}

TEST_CASE("512 ranks fold into 8, with and without a clock of the host") {
  // Actors are threads under sanitizers: fewer there.
  const int data = sim::actors_are_threads ? 1 : 8;
  HybridCase c{.plan = {.tensor = 4, .context = 4, .pipeline = 4, .data = data}, .per_node = 8};
  check_alike(c, "8");
  c.host_clock = false;
  check_alike(c, "8");
}

TEST_CASE("a full launch queue holds a recorded host as it holds a program") {
  check_alike({.plan = {.tensor = 2, .pipeline = 2, .data = 2}, .launch_queue = 2}, "2");
  check_alike({.plan = {.tensor = 2, .pipeline = 2, .data = 2}, .launch_queue = 5}, "2");
}

// Streams are behind by several waits of the host, and come to operations that it issued after
// them.
TEST_CASE("hosts that wait in the midst of full streams shift what they issue later") {
  for (std::uint32_t seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    HybridCase c{.plan = {.data = 2}, .launch_queue = seed % 2 == 0 ? 64U : 6U};
    c.program = [seed](Rank& rank) {
      std::minstd_rand random(seed + 1);
      std::array<Stream*, 3> streams{&rank.stream("compute"), &rank.stream("b"), &rank.stream("c")};
      std::array<Event, 3> last{};
      for (int i = 0; i < 200; ++i) {
        const auto which = random() % 3, other = random() % 3;
        Stream& stream = *streams[which];
        if (i > 0 && random() % 8 == 0) rank.wait(last[other]);
        if (random() % 4 == 0) stream.after(last[other]);
        if (random() % (2 + seed % 20) == 0)
          stream.launch(timed(rank, "long", 20 + 50 * (seed % 4)));
        else
          stream.launch(timed(rank, "short", 0.1));
        last[which] = stream.record();
        if (i % 50 == 49) streams[0]->mark_step(i / 50);
      }
    };
    CHECK(c.text(Execution::actors) == c.text(Execution::shared));
  }
}

TEST_CASE("a mixed cluster folds by kind of GPU") {
  check_alike({.plan = {.tensor = 2, .data = 8}, .per_node = 2, .kinds = 2}, "2");
  check_alike({.plan = {.pipeline = 2, .data = 8}, .per_node = 4, .kinds = 2}, "4");
}

TEST_CASE("a ring that leaves its nodes folds where its hops are alike") {
  check_alike({.plan = {.context = 8}, .per_node = 4}, "4");
  check_alike({.plan = {.context = 4, .data = 2}, .per_node = 4}, "1");
}

TEST_CASE("a shared program follows jitter and slow ranks as an actor per rank does") {
  HybridCase c{.plan = {.tensor = 2, .context = 2, .pipeline = 2, .data = 4}};
  std::vector<double> slowness(static_cast<std::size_t>(c.plan.ranks()), 1.0);
  slowness[5] = 1.25;
  c.variability = sim::Variability(slowness, 0.05, 3);
  const std::string actors = c.text(Execution::actors);
  CHECK(actors == c.text(Execution::shared));
  CHECK(actors != HybridCase{.plan = c.plan}.text(Execution::actors));
  check_neighbourhoods(c, actors);
}

// A stage's neighbour is four ranks on, and what is sent there takes one alpha. A reduction over
// two tensor ranks, which are neighbours in number, takes two, and over data the most bytes.
TEST_CASE("ranks with the shortest communications in common are simulated together") {
  const HybridCase c{.plan = {.tensor = 2, .pipeline = 2, .data = 2}};
  CHECK(neighbourhoods(c, 1) == "01234567");
  CHECK(neighbourhoods(c, 2) == "01230123");
  CHECK(neighbourhoods(c, 4) == "00110011");
  CHECK(neighbourhoods(c, 8).empty());
  CHECK(neighbourhoods(c, 0).empty());
}

TEST_CASE("ranks are simulated all together where more than communications reaches others") {
  HybridCase c{.plan = {.tensor = 2, .data = 2}};
  CHECK(neighbourhoods(c, 2) == "0011");
  StringTraceSink trace;
  CHECK(neighbourhoods(c, 2, &trace).empty());
  c.interference = true;
  CHECK(neighbourhoods(c, 2).empty());
  c.interference = false;
  c.fidelity = Fidelity::flow;
  CHECK(neighbourhoods(c, 2).empty());
}

TEST_CASE("ranks that never meet can be simulated one after the other from start to end") {
  HybridCase c{.plan = {.data = 6}};
  c.variability = sim::Variability({}, 0.2, 4);
  c.program = [](Rank& rank) {
    Stream& compute = rank.stream("compute");
    for (int step = 0; step < 20; ++step) {
      for (int i = 0; i < 10; ++i) compute.launch(timed(rank, "work", 3));
      compute.mark_step(step);
      rank.wait(compute.record());
    }
  };
  check_neighbourhoods(c, c.text(Execution::actors));
}

TEST_CASE("transfers of a shared program contend for links as those of actors do") {
  HybridCase c{.plan = {.tensor = 2, .context = 3, .pipeline = 2, .data = 2}, .per_node = 4};
  const std::string alone = c.text(Execution::actors);
  for (const Fidelity fidelity : {Fidelity::flow, Fidelity::messages}) {
    c.fidelity = fidelity;
    const std::string actors = c.text(Execution::actors);
    CHECK(actors == c.text(Execution::shared));
    CHECK(actors != alone);
  }
}

TEST_CASE("the trace of a shared program is that of an actor per rank, byte for byte") {
  const HybridCase c{.plan = {.tensor = 2, .context = 2, .pipeline = 2, .data = 2}};
  const auto traced = [&](Execution execution) {
    return in_child([&] {
      StringTraceSink trace;
      c.run(execution, &trace);
      return trace.text();
    });
  };
  const std::string actors = traced(Execution::actors);
  CHECK(actors.size() > 10'000);
  const std::string shared = traced(Execution::shared);
  CHECK((actors == shared));
}

TEST_CASE("automatic execution folds, shares or runs actors as the program allows") {
  HybridCase c{.plan = {.tensor = 2, .pipeline = 2, .data = 2}};
  CHECK(first_line(c.text(Execution::automatic)) == "2 ranks");
  CHECK(first_line(c.text(Execution::unfolded)) == "8 ranks");
  const std::string expected = figures(c.text(Execution::actors));
  c.program = [](Rank& rank) {
    if (rank.id() >= 0) hybrid_program(rank);
  };
  CHECK(c.text(Execution::automatic) == "8 ranks\n" + expected);
}

TEST_CASE("parts that cost differently along one axis tell ranks apart along that axis alone") {
  HybridCase c{.plan = {.data = 4, .shard = 3}};
  c.program = [](Rank& rank) {
    Stream& stream = rank.stream("compute");
    for (int i = 0; i <= rank.part(Axis::shard); ++i) stream.launch(timed(rank, "own part", 2));
    for (int i = 0; i < 4 + 0 * rank.part(Axis::replicate); ++i)
      stream.launch(timed(rank, "batch", 3));
    stream.mark_step(0);
  };
  check_alike(c, "3");
}

TEST_CASE("parts that cost differently in one class of many tell ranks apart") {
  HybridCase c{.plan = {.tensor = 2, .pipeline = 6, .data = 2}};
  c.program = [](Rank& rank) {
    Stream& stream = rank.stream("compute");
    const int part = rank.part(Axis::replicate);
    const bool differs = rank.coordinate(Axis::pipeline) == 2;
    for (int i = 0; i <= (differs ? part : 0); ++i) stream.launch(timed(rank, "own part", 2));
    stream.mark_step(0);
  };
  check_alike(c, "12");
}

TEST_CASE("what two classes issue is matched while it is recorded") {
  const HybridCase c{.plan = {.pipeline = 2, .data = 2}, .program = [](Rank& rank) {
                       Stream& stream = rank.stream("compute");
                       Channel& next = rank.edge(Axis::pipeline, +1, "activations");
                       const bool first = rank.coordinate(Axis::pipeline) == 0;
                       const Tensor x =
                           rank.allocate(stream, Label::activations, first ? 10 : 11, Dtype::fp32);
                       if (first)
                         stream.send(x, next);
                       else
                         stream.receive(x, next);
                     }};
  const Error error = error_of([&] { c.run(Execution::folded); });
  CHECK(error.category() == Category::mismatch);
  CHECK(error.context("rank 0").find("shared_program_test.cpp") != std::string::npos);
}

void check_deadlock(std::uint32_t neighbourhood) {
  HybridCase c{.plan = {.pipeline = 2, .data = 2}, .program = [](Rank& rank) {
                 Stream& stream = rank.stream("compute");
                 Channel& next = rank.edge(Axis::pipeline, +1, "activations");
                 const Tensor x = rank.allocate(stream, Label::activations, 8, Dtype::fp32);
                 if (rank.coordinate(Axis::pipeline) == 0) stream.send(x, next);
                 rank.wait(stream.record());
               }};
  c.neighbourhood = neighbourhood;
  const Error error = error_of([&] { c.run(Execution::shared); });
  CHECK(error.category() == Category::deadlock);
  CHECK(error.context("time") == "1.500000 us");
  const std::string text = error.what();
  CHECK(text.find("send and receive #0 on pipeline+1/activations") != std::string::npos);
  CHECK(text.find("shared_program_test.cpp") != std::string::npos);
  CHECK(text.find("waits for operation 1 of stream") != std::string::npos);
}

TEST_CASE("ranks that wait for each other for ever are named when they replay a program") {
  check_deadlock(128);
}

TEST_CASE("ranks that wait for each other for ever are named when each is simulated by itself") {
  check_deadlock(1);
}

TEST_CASE("memory runs out while a program is recorded as it does while it runs") {
  const auto error_in = [](Execution execution) {
    return in_child([execution] {
      UniformSpec spec;
      spec.gpus = 4;
      const UniformMachine machine(spec);
      WorldOptions world;
      world.grid.set(Axis::replicate, 4);
      world.device_capacity = Bytes(1000);
      SimOptions options;
      options.machine = &machine;
      options.execution = execution;
      try {
        make_sim_world(world, options)->run([](Rank& rank) {
          rank.allocate(rank.stream("compute"), Label::activations, 1001, Dtype::uint8,
                        {.name = "large"});
        });
      } catch (const Error& error) {
        return std::string(name(error.category())) + " " + error.what();
      }
      return std::string("no error");
    });
  };
  const std::string actors = error_in(Execution::actors);
  CHECK(actors.find("out_of_memory") == 0);
  CHECK(error_in(Execution::automatic) == actors);
  CHECK(error_in(Execution::folded).find("out_of_memory") == 0);
}

}  // namespace
}  // namespace orrery
