#include <doctest/doctest.h>

#include <cmath>

#include "tests/sim/simulate.hpp"
#include "tests/support/near.hpp"

namespace orrery {

namespace {

double& at(const View& view, std::int64_t i = 0) { return static_cast<double*>(view.data)[i]; }

Prepared kernel(Rank& rank, const char* label, std::initializer_list<Role> roles,
                double microseconds, std::function<void(std::span<const View>)> body) {
  return rank.prepare(
      Kernel::custom(label, roles, std::move(body), Flops(0), Bytes(0), us(microseconds)));
}

Tensor scalar(Rank& rank, Stream& home, const char* name) {
  TensorOptions options;
  options.values = Values::always;
  options.name = name;
  return rank.allocate(home, Label::parameters, 1, Dtype::fp64, options);
}

}  // namespace

TEST_CASE("kernels on Values::always tensors compute in a virtual run, in stream order") {
  Simulation simulation(1);
  simulation.run([](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Tensor x = scalar(rank, compute, "x");
    const Prepared twice =
        kernel(rank, "twice", {Role::update}, 1, [](auto views) { at(views[0]) *= 2; });
    compute.upload(x, {5});
    for (int i = 0; i < 4; ++i) compute.launch(twice, {x});
    CHECK(rank.read(x) == std::vector<double>{80});
    CHECK(rank.now().value == near(4e-6, 1e-6));
    compute.upload(x, {1});
    compute.launch(twice, {x});
    CHECK(rank.read(x) == std::vector<double>{2});
  });
}

TEST_CASE("what depends on values that the run does not compute cannot be read") {
  Simulation simulation(1);
  const Error error = error_of([&] {
    simulation.run([](Rank& rank) {
      Stream& compute = rank.stream("compute");
      Tensor activations = rank.allocate(compute, Label::activations, 1000, Dtype::fp32);
      Tensor norm = scalar(rank, compute, "norm");
      Tensor known = scalar(rank, compute, "known");
      compute.upload(known, {3});
      compute.launch(kernel(rank, "norm", {Role::read, Role::write}, 1,
                            [](auto) { FAIL("has no values to run on"); }),
                     {activations, norm});
      CHECK(rank.read(known) == std::vector<double>{3});
      rank.read(norm);
    });
  });
  CHECK(error.category() == Category::invalid_program);
  CHECK(std::string(error.what()).find("'norm'") != std::string::npos);
}

TEST_CASE("a sequence computes step by step, on parts of what it is given") {
  Simulation simulation(1);
  simulation.world.real_values = true;
  simulation.run([](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Tensor x = rank.allocate(compute, Label::parameters, 4, Dtype::fp64);
    const Prepared add = kernel(rank, "add", {Role::update}, 1, [](auto views) {
      for (std::int64_t i = 0; i < views[0].elements; ++i) at(views[0], i) += 1;
    });
    const Sequence& sequence = rank.sequence("s", [&](Sequence& s) {
      const int slot = s.slot("x");
      s.add(add, {{slot, 0, 4}});
      s.add(add, {{slot, 2, 2}});
    });
    compute.launch(sequence, {x});
    CHECK(rank.read(x) == std::vector<double>{1, 1, 2, 2});
    compute.launch(sequence, {x.slice(0, 4)});
    CHECK(rank.read(x) == std::vector<double>{2, 2, 4, 4});
  });
}

TEST_CASE("collectives carry values by the reference arithmetic") {
  Simulation simulation(3);
  simulation.world.real_values = true;
  simulation.run([](Rank& rank) {
    Channel& data = rank.channel(Axis::replicate, "data");
    Stream& comm = rank.stream("comm");
    Tensor x = scalar(rank, comm, "x");
    comm.upload(x, {1.0 + rank.id()});
    Tensor all = rank.allocate(comm, Label::parameters, 3, Dtype::fp64);
    comm.all_gather(all, x, data);
    comm.all_reduce(x, Reduce::mean, data);
    CHECK(rank.read(all) == std::vector<double>{1, 2, 3});
    CHECK(rank.read(x) == std::vector<double>{2});
    comm.broadcast(all.slice(1, 2), 2, data);
    Tensor part = scalar(rank, comm, "part");
    comm.reduce_scatter(part, all, Reduce::sum, data);
    CHECK(rank.read(part) == std::vector<double>{3.0 * (rank.id() + 1)});
    Tensor theirs = scalar(rank, comm, "theirs");
    comm.upload(x, {10.0 * rank.id()});
    if (rank.id() < 2) {
      comm.exchange(x, theirs, 1 - rank.id(), data);
      CHECK(rank.read(theirs) == std::vector<double>{10.0 * (1 - rank.id())});
    }
  });
}

TEST_CASE("a send carries values to its receiver, also of an always-tensor in a virtual run") {
  Simulation simulation(2, Axis::pipeline);
  simulation.run([](Rank& rank) {
    Channel& forward = rank.edge(Axis::pipeline, 1, "forward");
    Stream& comm = rank.stream("comm");
    Tensor x = scalar(rank, comm, "x");
    if (rank.id() == 0) {
      comm.upload(x, {42});
      comm.send(x, forward);
    } else {
      comm.receive(x, forward);
      CHECK(rank.read(x) == std::vector<double>{42});
    }
  });
}

// Two ranks descend f(x) = h x^2 / 2 and average over a transfer that takes d steps. The transfer
// takes x as it was when it started; what arrives is added as (average - old x) when it ends.
TEST_CASE(
    "a transfer is of what was there when it started and changes what is there when it ends") {
  const double h = 0.3, start[2] = {4, -1};
  const int delay = 3, rounds = 5;
  Simulation simulation(2);
  simulation.machine.alpha = 0_us;
  simulation.machine.bandwidth = BytesPerSecond(8.0 / (delay * 1e-6));  // 8 bytes in `delay` us
  std::vector<double> simulated(2);
  simulation.run([&](Rank& rank) {
    Channel& pair = rank.channel(Axis::replicate, "pair");
    Stream& compute = rank.stream("compute");
    Stream& comm = rank.stream("comm");
    Tensor x = scalar(rank, compute, "x");
    Tensor sent = scalar(rank, compute, "sent");
    Tensor theirs = scalar(rank, comm, "theirs");
    const Prepared step = kernel(rank, "step", {Role::update}, 1,
                                 [&](auto views) { at(views[0]) -= h * at(views[0]); });
    const Prepared keep = kernel(rank, "keep", {Role::read, Role::write}, 0,
                                 [](auto views) { at(views[1]) = at(views[0]); });
    const Prepared merge = kernel(rank, "merge", {Role::update, Role::read, Role::read}, 0,
                                  [](auto v) { at(v[0]) += 0.5 * (at(v[2]) - at(v[1])); });
    compute.upload(x, {start[rank.id()]});
    for (int round = 0; round < rounds; ++round) {
      compute.launch(keep, {x, sent});
      comm.after(compute.record());
      comm.exchange(x.racy(), theirs, 1 - rank.id(), pair);  // reads x while steps change it
      for (int i = 0; i < delay; ++i) compute.launch(step, {x.racy()});
      compute.after(comm.record());
      compute.launch(merge, {x, sent, theirs});
    }
    simulated[static_cast<std::size_t>(rank.id())] = rank.read(x)[0];
    CHECK(rank.now().value == near(rounds * delay * 1e-6, 1e-6));
  });
  // Sum and difference of the two evolve apart: x_i + x_j by (1-h)^d, x_i - x_j by (1-h)^d - 1.
  const double shrink = std::pow(1 - h, delay);
  const double sum = (start[0] + start[1]) * std::pow(shrink, rounds);
  const double difference = (start[0] - start[1]) * std::pow(shrink - 1, rounds);
  CHECK(simulated[0] == doctest::Approx((sum + difference) / 2).epsilon(1e-12));
  CHECK(simulated[1] == doctest::Approx((sum - difference) / 2).epsilon(1e-12));
}

TEST_CASE("a racy operand is read when the operation starts and written when it ends") {
  Simulation simulation(1);
  simulation.run([](Rank& rank) {
    Stream& one = rank.stream("one");
    Stream& two = rank.stream("two");
    Tensor x = scalar(rank, one, "x");
    Tensor seen = scalar(rank, two, "seen");
    one.upload(x, {1});
    two.after(one.record());
    const Prepared set = kernel(rank, "set", {Role::write}, 4, [](auto v) { at(v[0]) = 2; });
    const Prepared look =
        kernel(rank, "look", {Role::read, Role::write}, 10, [](auto v) { at(v[1]) = at(v[0]); });
    one.launch(set, {x.racy()});         // 0 to 4
    two.launch(look, {x.racy(), seen});  // 0 to 10: reads 1
    CHECK(rank.read(seen) == std::vector<double>{1});
    one.launch(timed(rank, "gap", 3));  // 10 to 13
    one.launch(set, {x.racy()});        // 13 to 17
    two.launch(timed(rank, "gap", 7));  // 10 to 17
    const Prepared reset = kernel(rank, "reset", {Role::write}, 0, [](auto v) { at(v[0]) = 9; });
    two.launch(reset, {seen});
    two.launch(look, {x.racy(), seen});  // starts at the instant of the write: sees it
    CHECK(rank.read(seen) == std::vector<double>{2});
  });
}

TEST_CASE("ranks that race at one instant see the same, whatever their numbers") {
  Simulation simulation(4);
  simulation.machine.bandwidth = BytesPerSecond(8e6);  // 8 bytes a microsecond
  simulation.machine.alpha = 1_us;
  std::vector<double> results(4);
  simulation.run([&](Rank& rank) {
    Channel& gossip = rank.channel(Axis::replicate, "gossip");
    Stream& comm = rank.stream("comm");  // before the compute stream, in the order of an instant
    Stream& compute = rank.stream("compute");
    Tensor x = scalar(rank, compute, "x");
    Tensor theirs = scalar(rank, comm, "theirs");
    compute.upload(x, {1});
    comm.after(compute.record());
    const Prepared step = kernel(rank, "step", {Role::update}, 2, [](auto v) { at(v[0]) *= 3; });
    const Prepared mix = kernel(rank, "mix", {Role::update, Role::read}, 0,
                                [](auto v) { at(v[0]) = 0.5 * (at(v[0]) + at(v[1])); });
    for (int i = 0; i < 6; ++i) {
      compute.launch(step, {x.racy()});
      comm.exchange(x.racy(), theirs, rank.id() ^ 1, gossip);  // ends with each step
      comm.launch(mix, {x.racy(), theirs});
    }
    rank.wait(comm.record());
    results[static_cast<std::size_t>(rank.id())] = rank.read(x)[0];
  });
  CHECK(results[0] > 1);
  for (const double result : results) CHECK(result == results[0]);
}

TEST_CASE("a failed kernel poisons its stream, what waits for it, and the ranks it talks to") {
  Simulation simulation(2);
  std::vector<std::string> failures(2);
  const Error failure = error_of([&] {
    simulation.run([&](Rank& rank) {
      Channel& data = rank.channel(Axis::replicate, "data");
      Stream& compute = rank.stream("compute");
      Stream& comm = rank.stream("comm");
      Tensor x = rank.allocate(comm, Label::gradients, 8, Dtype::fp32);
      compute.launch(timed(rank, "fine", 1));
      const Event fine = compute.record();
      if (rank.id() == 1)
        compute.launch(kernel(rank, "fails", {}, 1, [](auto) {
          throw Error(Category::invalid_program, "the token is outside the vocabulary");
        }));
      compute.launch(timed(rank, "more", 5));
      comm.after(compute.record());
      const Event reduced = comm.all_reduce(x, Reduce::sum, data);
      rank.wait(fine);  // was over before
      try {
        rank.wait(reduced);
      } catch (const Error& error) {
        failures[static_cast<std::size_t>(rank.id())] = error.message();
      }
      rank.sleep(us(1));  // the end of the program reports it again
    });
  });
  CHECK(failures[0] == "the token is outside the vocabulary");
  CHECK(failures[1] == failures[0]);
  // A failure that the program swallowed still ends the run.
  CHECK(failure.message() == failures[0]);
  CHECK(failure.context("rank") == "1");
  CHECK(failure.context("stream") == "compute");
  CHECK(failure.context("operation") == "2");
  CHECK(failure.context("time") == "2.000000 us");
}

}  // namespace orrery
