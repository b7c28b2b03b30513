#include "backend/rank.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "tests/backend/fake_device.hpp"
#include "tests/support/errors.hpp"

using namespace orrery;

namespace {

Prepared work(Rank& rank) { return rank.prepare(Kernel::timed("work", Seconds(1))); }

Tensor always(Rank& rank, Stream& home, std::int64_t elements, Dtype dtype = Dtype::fp32) {
  TensorOptions options;
  options.values = Values::always;
  options.name = "always";
  return rank.allocate(home, Label::activations, elements, dtype, options);
}

}  // namespace

TEST_CASE("a wait blocks until the stream has passed its event, and costs nothing when it has") {
  FakeWorld world;
  world.hold = true;
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  rank.wait(s.record());  // before the first operation: always done
  CHECK(world.device().waits.empty());
  s.launch(work(rank));
  rank.wait(s.record());
  CHECK(world.device().waits.size() == 1);
  rank.wait(s.record());
  CHECK(world.device().waits.size() == 1);
}

TEST_CASE("a wait that nothing can satisfy is a deadlock that names what is waited for") {
  FakeWorld world(replicas(2));
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  s.all_reduce(tensor(rank, s, 4), Reduce::sum, rank.channel(Axis::replicate, "x"));
  const Error error = error_of([&] { rank.wait(s.record()); });
  CHECK(error.category() == Category::deadlock);
  CHECK(mentions(error, "operation 1 of stream 0"));
  CHECK(mentions(error, "rank_test.cpp"));
}

TEST_CASE("a wait for an operation that was never issued is refused") {
  FakeWorld world;
  Stream& s = world.rank().stream("s");
  CHECK(error_of([&] {
          world.rank().wait({s.index(), 3});
        }).category() == Category::invalid_program);
}

TEST_CASE("a wait with a deadline ends unsatisfied at it, or early with the event") {
  FakeWorld world;
  world.hold = true;
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  s.launch(work(rank));
  CHECK_FALSE(rank.wait(s.record(), Seconds(2)));
  CHECK(rank.now().value == doctest::Approx(2));
  world.device().waited = [&](const Wait&) { world.settle(); };
  CHECK(rank.wait(s.record(), Seconds(2)));
  CHECK(rank.now().value == doctest::Approx(2));
}

TEST_CASE("wait_any gives the first of its events that is done, and none is an error") {
  FakeWorld world;
  world.hold = true;
  Rank& rank = world.rank();
  Stream &a = rank.stream("a"), &b = rank.stream("b");
  b.launch(work(rank));
  world.settle();
  a.launch(work(rank));
  const Event events[2] = {a.record(), b.record()};
  CHECK(rank.wait_any(events) == 1);
  CHECK(error_of([&] { rank.wait_any({}); }).category() == Category::invalid_program);
}

TEST_CASE("a million fruitless polls at one instant are a livelock; time that moves is not") {
  FakeWorld world;
  world.hold = true;
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  s.launch(work(rank));
  for (int i = 0; i < 900'000; ++i) REQUIRE_FALSE(rank.poll(s.record()));
  world.device().clock = Time(1);
  for (int i = 0; i < 1'000'000; ++i) REQUIRE_FALSE(rank.poll(s.record()));
  const Error error = error_of([&] { rank.poll(s.record()); });
  CHECK(error.category() == Category::livelock);
  CHECK(error.context("rank") == "0");
  CHECK(error.context("flow") == "0");
  CHECK(error.context("site").find("rank_test.cpp") != std::string::npos);
}

TEST_CASE("sleep lets the rank's clock pass") {
  FakeWorld world;
  world.rank().sleep(Seconds(0.5));
  CHECK(world.rank().now().value == doctest::Approx(0.5));
}

TEST_CASE("waiting for a failed operation, or for one behind it, throws its failure") {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream &s = rank.stream("s"), &fine = rank.stream("fine");
  for (int i = 0; i < 3; ++i) s.launch(work(rank));
  fine.launch(work(rank));
  world.device().fail(s.index(), 2, std::make_exception_ptr(Error(Category::internal, "broken")));
  CHECK_NOTHROW(rank.wait({s.index(), 1}));
  CHECK_NOTHROW(rank.wait(fine.record()));
  const std::vector<std::function<void()>> waits{[&] {
                                                   rank.wait({s.index(), 2});
                                                 },
                                                 [&] { rank.wait(s.record()); },
                                                 [&] { rank.poll(s.record()); },
                                                 [&] { rank.wait(s.record(), Seconds(1)); },
                                                 [&] {
                                                   const Event events[1] = {s.record()};
                                                   rank.wait_any(events);
                                                 }};
  for (const auto& wait : waits) CHECK(error_of(wait).message() == "broken");
}

TEST_CASE("small values go up in stream order and come down after their last writer") {
  FakeWorld world;
  world.hold = true;
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  const Tensor counts = always(rank, s, 2, Dtype::int64);
  s.upload(counts, {3, 4});
  s.upload(counts.slice(1, 2), {5});
  CHECK(rank.read(counts) == std::vector{3.0, 5.0});
  CHECK(error_of([&] { s.upload(counts, {1}); }).category() == Category::invalid_program);
  CHECK(error_of([&] { s.upload(tensor(rank, s, 1), {1}); }).category() ==
        Category::invalid_program);
}

TEST_CASE("every element type reads as a number") {
  FakeWorld world(replicas(1, true));
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  const auto check = [&]<class T>(T raw, Dtype dtype, double expected) {
    const Tensor t = tensor(rank, s, 1, "t", Label::activations, dtype);
    rank.write_bytes(t, std::as_bytes(std::span(&raw, 1)));
    CHECK(rank.read(t) == std::vector{expected});
  };
  check(1.5F, Dtype::fp32, 1.5);
  check(-2.25, Dtype::fp64, -2.25);
  check(to_bf16(3.0F), Dtype::bf16, 3.0);
  check(to_fp16(-0.5F), Dtype::fp16, -0.5);
  check(std::int32_t{-7}, Dtype::int32, -7);
  check(std::int64_t{1} << 40, Dtype::int64, 0x1p40);
  check(std::uint8_t{200}, Dtype::uint8, 200);
}

TEST_CASE("reading what the run does not compute is the program's error, with the call site") {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  const Error none = error_of([&] { rank.read(tensor(rank, s, 3, "loss")); });
  CHECK(none.category() == Category::invalid_program);
  CHECK(mentions(none, "'loss'"));
  CHECK(none.context("site").find("rank_test.cpp") != std::string::npos);
  const Tensor norm = always(rank, s, 1);
  s.upload(norm, {std::nan("")});  // what a world writes for a value that depends on missing ones
  CHECK(error_of([&] { rank.read(norm); }).category() == Category::invalid_program);
  FakeWorld real(replicas(1, true));
  Stream& t = real.rank().stream("s");
  const Tensor really = always(real.rank(), t, 1);
  t.upload(really, {std::nan("")});
  CHECK(std::isnan(real.rank().read(really)[0]));
}

TEST_CASE("the host writes a tensor after every use, and only with as many bytes as it has") {
  FakeWorld world(replicas(1, true));
  world.hold = true;
  Rank& rank = world.rank();
  Stream &a = rank.stream("a"), &b = rank.stream("b");
  const Tensor t = tensor(rank, a, 1);
  a.launch(reader(rank), {t});
  b.launch(reader(rank), {t});
  const float value = 4;
  rank.write_bytes(t, std::as_bytes(std::span(&value, 1)));
  CHECK(world.device().done(a.record()));
  CHECK(world.device().done(b.record()));
  CHECK(error_of([&] { rank.write_bytes(t, {}); }).category() == Category::invalid_program);
}

TEST_CASE("control messages are taken by tag and source, in the order of their arrival") {
  FakeWorld world(replicas(3), {"matchmaker"});
  world.rank(1).control_send(0, 5, {1});
  world.rank(2).control_send(0, 5, {2, 22});
  world.rank(1).control_send(0, 6, {3});
  world.rank(1).control_send(0, 5, {4});
  Rank& rank = world.rank(0);
  CHECK(rank.control_receive(6)->values == std::vector<std::int64_t>{3});
  CHECK(rank.control_receive(5, 2)->values == std::vector<std::int64_t>{2, 22});
  CHECK(rank.control_receive(5)->values == std::vector<std::int64_t>{1});
  CHECK(rank.control_receive(5)->from == 1);
  CHECK_FALSE(rank.control_receive(5, any_source, Seconds(1)).has_value());
  CHECK(rank.now().value == doctest::Approx(1));
  CHECK(error_of([&] { rank.control_receive(5); }).category() == Category::deadlock);
}

TEST_CASE("services have addresses behind the ranks; other addresses are refused") {
  FakeWorld world(replicas(2), {"tracker", "matchmaker"});
  CHECK(world.rank().service("matchmaker") == 3);
  CHECK_NOTHROW(world.rank().control_send(3, 1, {1}));
  for (const int to : {-1, 4}) {
    const Error error = error_of([&] { world.rank().control_send(to, 1, {1}); });
    CHECK(error.category() == Category::invalid_program);
    CHECK(mentions(error, "end at 3"));
  }
  CHECK(error_of([&] { world.rank().service("nobody"); }).category() == Category::invalid_program);
}

TEST_CASE("a signal counts, and a flow that ended can be joined") {
  FakeWorld world;
  Rank& rank = world.rank();
  Signal& signal = rank.signal("ready");
  CHECK(&rank.signal("ready") == &signal);
  const Task task = rank.fork("other", [&] {
    rank.raise(signal);
    rank.raise(signal);
  });
  rank.wait(signal);
  rank.wait(signal);
  rank.join(task);
  const Error error = error_of([&] { rank.wait(signal); });
  CHECK(error.category() == Category::deadlock);
  CHECK(mentions(error, "signal ready"));
}

TEST_CASE("streams are found by name, and there are at most thirty-two") {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream& first = rank.stream("0");
  for (std::size_t i = 1; i < max_streams; ++i) rank.stream(std::to_string(i));
  CHECK(&rank.stream("0") == &first);
  CHECK(error_of([&] { rank.stream("one more"); }).category() == Category::invalid_program);
}

TEST_CASE("a slice beyond its tensor is refused with the tensor's name") {
  FakeWorld world;
  const Tensor t = tensor(world.rank(), world.rank().stream("s"), 8, "weights");
  for (const auto& [begin, end] : {std::pair{-1, 2}, std::pair{3, 2}, std::pair{0, 9}}) {
    const Error error = error_of([&, b = begin, e = end] { t.slice(b, e); });
    CHECK(error.category() == Category::invalid_program);
    CHECK(error.context("tensor") == "weights");
  }
  CHECK(t.slice(2, 6).slice(1, 3).operand().begin == 3);
}

TEST_CASE("a rank's own numbers differ between ranks, shared ones do not, and both repeat") {
  FakeWorld a(replicas(2)), b(replicas(2));
  CHECK(a.rank(0).rng(Purpose::jitter).next() == b.rank(0).rng(Purpose::jitter).next());
  CHECK(a.rank(0).rng(Purpose::order).next() != a.rank(1).rng(Purpose::order).next());
  CHECK(a.rank(0).shared_rng(Purpose::dropout).bits(9) ==
        a.rank(1).shared_rng(Purpose::dropout).bits(9));
}

TEST_CASE("operations and matrix FLOPs are counted as they are issued") {
  FakeWorld world;
  world.hold = true;
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  const Tensor t = tensor(rank, s, 4);
  s.launch(rank.prepare(Kernel::gemm(2, 2, 2, Dtype::fp32)), {t, t, t});
  s.copy(t, tensor(rank, s, 4));
  CHECK(rank.operations() == 2);
  CHECK(rank.matrix_flops().value == 16);
  s.mark_step(3);
  CHECK(s.record().ordinal == 2);  // a mark is no operation
  CHECK(world.device().steps == std::vector<std::int64_t>{3});
}

TEST_CASE("losses are kept by step") {
  FakeWorld world;
  world.rank().record_loss(0, 2.5);
  world.rank().record_loss(1, 2.0);
  CHECK(world.rank().losses() == std::map<std::int64_t, double>{{0, 2.5}, {1, 2.0}});
}
