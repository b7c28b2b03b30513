// A catalogue of bad programs. Each must be the same named error in both worlds, with the ranks and
// the call sites of both sides; what deadlocks with NCCL must not pass in sim or on the CPU.
//
// README.md names the breaks of the product by which it was seen to fail.
#include <doctest/doctest.h>

#include <algorithm>

#include "tests/support/worlds.hpp"

using namespace orrery;

namespace {

std::string line(int number) { return "toy_errors_test.cpp:" + std::to_string(number); }

bool holds(const Error& error, const std::string& text) {
  if (std::string(error.what()).find(text) != std::string::npos) return true;
  MESSAGE("'" << text << "' is not in: " << std::string(error.what()));
  return false;
}

bool holds_any(const std::string& text, const std::vector<std::string>& parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](const std::string& part) { return text.find(part) != std::string::npos; });
}

// Both worlds end in this category, and both errors hold these texts.
void expect(Category category, const WorldSetup& setup, const SharedProgram& program,
            const std::vector<std::string>& texts) {
  for (const bool in_sim : {true, false}) {
    CAPTURE(in_sim);
    const WorldResult result = in_sim ? run_in_sim(setup, program) : run_in_cpu(setup, program);
    REQUIRE(result.error.has_value());
    CHECK_MESSAGE(result.error->category() == category, why(result));
    CHECK(exit_code(result.error->category()) == 4);
    for (const std::string& text : texts) CHECK(holds(*result.error, text));
  }
}

Tensor buffer(Rank& rank, Stream& stream, std::int64_t elements = 64) {
  return toy::vector(rank, stream, elements, "buffer", Label::communication);
}

}  // namespace

TEST_CASE("an ungrouped exchange, send then receive on one stream of both, is a deadlock") {
  int sends = 0;
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    Stream& s = rank.stream("p2p");
    Channel& edge = rank.edge(Axis::pipeline, 1, "activations");
    const Tensor out = buffer(rank, s), in = buffer(rank, s);
    s.send(out, edge);
    s.receive(in, edge);
    rank.wait(s.record());
  };
  sends = __LINE__ - 4;
  expect(Category::deadlock, setup_for(2, Axis::pipeline), program,
         {line(sends), line(sends + 2), "rank 0", "rank 1", "p2p"});
}

TEST_CASE("the same exchange on two streams ends, and so does exchange()") {
  const SharedProgram program = [](Rank& rank, RankNotes& notes) {
    Stream &out = rank.stream("out"), &in = rank.stream("in");
    Channel& edge = rank.edge(Axis::pipeline, 1, "activations");
    Channel& group = rank.channel(Axis::pipeline, "exchange");
    const Tensor a = buffer(rank, out), b = buffer(rank, in), c = buffer(rank, out);
    toy::fill(rank, out, a, rank.id());
    out.send(a, edge);
    in.receive(b, edge);
    rank.wait(in.record());
    out.exchange(a, c, 1 - rank.id(), group);
    notes.values = {rank.read(b)[0], rank.read(c)[0]};
  };
  for (const auto& result : {run_in_sim(setup_for(2, Axis::pipeline), program),
                             run_in_cpu(setup_for(2, Axis::pipeline), program)})
    CHECK(result.noted() == std::vector<double>{1, 1, 0, 0});
}

namespace {

// Two stages of 1F1B with two micro-batches in flight, over one stream for both directions or two.
constexpr int pipeline_line = __LINE__;
void pipeline_of_two(Rank& rank, bool one_stream) {
  Stream& forward = rank.stream("forward");
  Stream& backward = one_stream ? forward : rank.stream("backward");
  Channel& activations = rank.edge(Axis::pipeline, 1, "activations");
  Channel& gradients = rank.edge(Axis::pipeline, -1, "gradients");
  const Tensor first = buffer(rank, forward), second = buffer(rank, forward),
               gradient = buffer(rank, backward);
  if (rank.id() == 0) {
    forward.send(first, activations);
    forward.send(second, activations);  // 10 lines below pipeline_line
    backward.receive(gradient, gradients);
  } else {
    forward.receive(first, activations);
    backward.send(gradient, gradients);  // 14
    forward.receive(second, activations);
  }
  rank.wait(forward.record());
  rank.wait(backward.record());
}

}  // namespace

TEST_CASE("1F1B with one stream for both directions is a deadlock; with a stream each it ends") {
  const auto program = [](bool one_stream) {
    return [one_stream](Rank& rank, RankNotes&) { pipeline_of_two(rank, one_stream); };
  };
  const WorldSetup setup = setup_for(2, Axis::pipeline);
  for (const auto& result : {run_in_sim(setup, program(false)), run_in_cpu(setup, program(false))})
    CHECK_MESSAGE(!result.error, why(result));
  expect(Category::deadlock, setup, program(true),
         {"activations", "gradients", "rank 0", "rank 1", "forward"});
  const Error in_sim = *run_in_sim(setup, program(true)).error;  // names both sides of both
  for (const int below : {10, 11, 14, 15}) CHECK(holds(in_sim, line(pipeline_line + below)));
}

TEST_CASE("two channels used in crossed orders are a deadlock with both call sites") {
  const int here = __LINE__;
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    Stream &a = rank.stream("a"), &b = rank.stream("b");
    Channel &first = rank.channel(Axis::replicate, "first"),
            &second = rank.channel(Axis::replicate, "second");
    const Tensor x = buffer(rank, a), y = buffer(rank, b);
    if (rank.id() == 0) a.all_reduce(x, Reduce::sum, first);
    b.all_reduce(y, Reduce::sum, second);
    if (rank.id() == 1) a.all_reduce(x, Reduce::sum, first);
    rank.wait(a.record());
    rank.wait(b.record());
  };
  for (const bool in_sim : {true, false}) {
    const WorldResult result =
        in_sim ? run_in_sim(setup_for(2), program) : run_in_cpu(setup_for(2), program);
    REQUIRE(result.error.has_value());
    CHECK(result.error->category() == Category::deadlock);
    CHECK(exit_code(result.error->category()) == 4);
    CHECK(holds(*result.error, "replicate/first"));
    CHECK(holds(*result.error, "replicate/second"));
    // The operation found crossed, as each rank issued it: line 7 for both, or lines 6 and 8.
    for (const char* rank : {"rank 0", "rank 1"}) {
      const std::string text = result.error->context(rank);
      CHECK_MESSAGE((holds_any(text, {line(here + 6), line(here + 7), line(here + 8)})), text);
    }
  }
}

TEST_CASE("a rank missing from a collective is a deadlock that names it and who waits where") {
  const int here = __LINE__;
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    Stream& s = rank.stream("comm");
    Channel& group = rank.channel(Axis::replicate, "gradients");
    const Tensor x = buffer(rank, s);
    if (rank.id() == 1) return;
    s.all_reduce(x, Reduce::mean, group);
    rank.wait(s.record());
  };
  expect(Category::deadlock, setup_for(3), program,
         {"replicate/gradients", "rank 1", line(here + 6), line(here + 7)});
}

TEST_CASE("members that issue different operations are a mismatch with both call sites") {
  const int here = __LINE__;
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    Stream& s = rank.stream("comm");
    Channel& group = rank.channel(Axis::replicate, "gradients");
    const Tensor x = buffer(rank, s);
    if (rank.id() == 0)
      s.all_reduce(x, Reduce::sum, group);
    else
      s.all_reduce(x, Reduce::mean, group);
    rank.wait(s.record());
  };
  expect(Category::mismatch, setup_for(2), program,
         {"rank 0", "rank 1", line(here + 6), line(here + 8), "sum", "mean"});
}

TEST_CASE("a send and a receive of different sizes are a mismatch with both call sites") {
  const int here = __LINE__;
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    Stream& s = rank.stream("p2p");
    Channel& edge = rank.edge(Axis::pipeline, 1, "x");
    if (rank.id() == 0)
      s.send(buffer(rank, s, 64), edge);
    else
      s.receive(buffer(rank, s, 65), edge);
    rank.wait(s.record());
  };
  expect(Category::mismatch, setup_for(2, Axis::pipeline), program,
         {"rank 0", "rank 1", line(here + 5), line(here + 7)});
}

TEST_CASE(
    "an allocation beyond capacity is out of memory, with the top holders and the call site") {
  const int here = __LINE__;
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    Stream &s = rank.stream("compute"), &other = rank.stream("other");
    const Tensor weights = toy::vector(rank, s, 200, "weights", Label::parameters);
    for (int i = 0; i < 3; ++i) {  // waits for its refunds, and fits
      const Tensor passing = toy::vector(rank, s, 100, "passing", Label::activations);
      s.launch(rank.prepare(Kernel::fill(100, i, Dtype::fp32)), {passing});
      other.after(s.record());
      other.launch(rank.prepare(Kernel::timed("use", Seconds(1e-6), {Role::read})), {passing});
    }
    TensorOptions options;
    options.name = "too much";
    rank.allocate(s, Label::gradients, 201, Dtype::fp32, options);
  };
  WorldSetup setup = setup_for(1);
  setup.options.device_capacity = Bytes(4 * 400);
  expect(Category::out_of_memory, setup, program,
         {"too much", "weights", "held by parameters", "800 bytes", line(here + 12)});
}

TEST_CASE("waiting for refunds fits the same programs into the same memory in both worlds") {
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    Stream &s = rank.stream("compute"), &other = rank.stream("other");
    for (int i = 0; i < 8; ++i) {
      const Tensor passing = toy::vector(rank, s, 100, "passing", Label::activations);
      s.launch(rank.prepare(Kernel::fill(100, i, Dtype::fp32)), {passing});
      other.after(s.record());
      other.launch(rank.prepare(Kernel::timed("use", Seconds(1e-6), {Role::read})), {passing});
    }
  };
  WorldSetup setup = setup_for(2);
  setup.options.device_capacity = Bytes(1000);
  const WorldResult sim = run_in_sim(setup, program), cpu = run_in_cpu(setup, program);
  REQUIRE_FALSE(sim.error.has_value());
  REQUIRE_FALSE(cpu.error.has_value());
  CHECK(sim.peaks == std::vector<std::int64_t>{800, 800});
  CHECK(cpu.peaks == sim.peaks);
}

TEST_CASE("a message that nobody receives is a mismatch that names it") {
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    if (rank.id() == 0) rank.control_send(1, 77, {1});
  };
  expect(Category::mismatch, setup_for(2), program, {"tag 77"});
}

TEST_CASE("a receive of a message that nobody sends is a deadlock with its call site") {
  const int here = __LINE__;
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    if (rank.id() == 1) rank.control_receive(5, 0);
  };
  expect(Category::deadlock, setup_for(2), program, {"tag 5", "rank 1", line(here + 2)});
}

TEST_CASE("two flows that wait for each other's signals are a deadlock that names both") {
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    Signal &a = rank.signal("first"), &b = rank.signal("second");
    const Task other = rank.fork("other", [&] {
      rank.wait(a);
      rank.raise(b);
    });
    rank.wait(b);
    rank.raise(a);
    rank.join(other);
  };
  expect(Category::deadlock, setup_for(1), program,
         {"signal first", "signal second", "other", "toy_errors_test.cpp"});
}

TEST_CASE("a loop that polls while time stands still is a livelock in sim") {
  const int here = __LINE__;
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    Stream& s = rank.stream("s");
    s.launch(rank.prepare(Kernel::timed("work", Seconds(1))));
    while (!rank.poll(s.record())) {
    }
  };
  const WorldResult sim = run_in_sim(setup_for(1), program);
  REQUIRE(sim.error.has_value());
  CHECK(sim.error->category() == Category::livelock);
  CHECK(exit_code(sim.error->category()) == 4);
  CHECK(sim.error->context("rank") == "0");
  CHECK(holds(*sim.error, line(here + 4)));
  CHECK_FALSE(run_in_cpu(setup_for(1), program).error.has_value());  // time does not stand still
}

TEST_CASE("a flow that is not joined is the program's error in both worlds") {
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    Signal& never = rank.signal("never");
    rank.fork("left", [&rank, &never] { rank.wait(never); });
  };
  for (const auto& result :
       {run_in_sim(setup_for(1), program), run_in_cpu(setup_for(1), program)}) {
    REQUIRE(result.error.has_value());
    CHECK(holds(*result.error, "left"));
    CHECK(result.error->context("rank") == "0");
    CHECK((result.error->category() == Category::invalid_program));
  }
}

TEST_CASE("an exception of the program ends the run with its rank in both worlds") {
  const SharedProgram program = [](Rank& rank, RankNotes&) {
    if (rank.id() == 2) throw Error(Category::config, "no such file");
    Stream& s = rank.stream("s");
    s.all_reduce(buffer(rank, s), Reduce::sum, rank.channel(Axis::replicate, "x"));
    rank.wait(s.record());
  };
  for (const auto& result :
       {run_in_sim(setup_for(3), program), run_in_cpu(setup_for(3), program)}) {
    REQUIRE(result.error.has_value());
    CHECK(result.error->category() == Category::config);
    CHECK(result.error->context("rank") == "2");
  }
}
