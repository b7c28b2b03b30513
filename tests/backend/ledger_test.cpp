#include "backend/ledger.hpp"

#include <doctest/doctest.h>

#include "tests/backend/fake_device.hpp"
#include "tests/support/errors.hpp"

using namespace orrery;

namespace {

WorldOptions with_capacity(std::int64_t bytes) {
  WorldOptions options;
  options.device_capacity = Bytes(bytes);
  return options;
}

std::int64_t used(Rank& rank) { return rank.ledger(Place::device).used().value; }
std::int64_t peak(Rank& rank) { return rank.ledger(Place::device).peak().value; }

}  // namespace

TEST_CASE("memory is charged when allocated, refunded with its last handle, and peaks by label") {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  const Tensor kept = tensor(rank, s, 100, "p", Label::parameters);
  {
    const Tensor a = tensor(rank, s, 50, "a", Label::activations, Dtype::bf16);
    const Tensor same = a.slice(0, 1).racy();
    CHECK(used(rank) == 500);
  }
  CHECK(used(rank) == 400);
  const Tensor g = tensor(rank, s, 10, "g", Label::gradients);
  CHECK(peak(rank) == 500);
  const BytesByLabel& at_peak = rank.ledger(Place::device).peak_by_label();
  CHECK(at_peak[static_cast<std::size_t>(Label::parameters)] == Bytes(400));
  CHECK(at_peak[static_cast<std::size_t>(Label::activations)] == Bytes(100));
  CHECK(at_peak[static_cast<std::size_t>(Label::gradients)] == Bytes(0));
}

TEST_CASE("a slice keeps its storage charged") {
  FakeWorld world;
  Rank& rank = world.rank();
  Tensor part;
  {
    const Tensor whole = tensor(rank, rank.stream("s"), 100);
    part = whole.slice(10, 20);
  }
  CHECK(used(rank) == 400);
  part = {};
  CHECK(used(rank) == 0);
}

TEST_CASE("host memory has an account of its own") {
  FakeWorld world;
  Rank& rank = world.rank();
  TensorOptions options;
  options.place = Place::host;
  const Tensor t = rank.allocate(rank.stream("s"), Label::optimizer, 8, Dtype::fp64, options);
  CHECK(used(rank) == 0);
  CHECK(rank.ledger(Place::host).used() == Bytes(64));
}

TEST_CASE("a use on the home stream alone never delays the refund") {
  FakeWorld world;
  world.hold = true;
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  Tensor t = tensor(rank, s, 100);
  s.launch(writer(rank), {t});
  t = {};
  CHECK(used(rank) == 0);
  world.settle();
}

TEST_CASE("a use on another stream delays the refund to the `after` that orders it") {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream &home = rank.stream("home"), &other = rank.stream("other"), &third = rank.stream("third");
  Tensor t = tensor(rank, home, 100);
  other.launch(reader(rank), {t});
  const Event used_there = other.record();
  other.launch(rank.prepare(Kernel::timed("later", Seconds(0))));
  t = {};
  CHECK(used(rank) == 400);
  third.after(other.record());  // another stream's knowledge does not count
  CHECK(used(rank) == 400);
  home.after(used_there);
  CHECK(used(rank) == 0);
}

TEST_CASE("the refund comes at once when the `after` was issued before the last handle died") {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream &home = rank.stream("home"), &other = rank.stream("other");
  Tensor t = tensor(rank, home, 100);
  other.launch(reader(rank), {t});
  home.after(other.record());
  CHECK(used(rank) == 400);
  t = {};
  CHECK(used(rank) == 0);
}

TEST_CASE("a host wait orders all earlier uses, through other streams too, and refunds") {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream &home = rank.stream("home"), &other = rank.stream("other"), &third = rank.stream("third");
  Tensor t = tensor(rank, home, 100);
  other.launch(reader(rank), {t});
  third.after(other.record());
  t = {};
  CHECK(used(rank) == 400);
  rank.wait(third.record());
  CHECK(used(rank) == 0);
}

TEST_CASE("the account does not depend on when operations run") {
  const auto run = [](bool hold) {
    FakeWorld world;
    world.hold = hold;
    Rank& rank = world.rank();
    Stream &a = rank.stream("a"), &b = rank.stream("b");
    std::vector<std::int64_t> trail;
    for (int i = 0; i < 5; ++i) {
      const Tensor t = tensor(rank, a, 100 * (i + 1));
      a.launch(writer(rank), {t});
      b.after(a.record());
      b.launch(reader(rank), {t});
      trail.push_back(used(rank));
      if (i == 2) a.after(b.record());
      trail.push_back(used(rank));
    }
    trail.push_back(peak(rank));
    world.settle();
    return trail;
  };
  CHECK(run(false) == run(true));
}

TEST_CASE("an allocation that does not fit waits for pending refunds, the oldest first") {
  FakeWorld world(with_capacity(1000));
  world.hold = true;
  Rank& rank = world.rank();
  Stream &home = rank.stream("home"), &other = rank.stream("other");
  for (int i = 0; i < 2; ++i) {
    const Tensor t = tensor(rank, home, 100);
    other.launch(reader(rank), {t});
  }
  CHECK(used(rank) == 800);
  const Tensor next = tensor(rank, home, 100);  // 400 bytes: the first refund is enough
  CHECK(world.device().waits.size() == 1);
  CHECK(world.device().waits[0].find("operation 1 of stream 1") != std::string::npos);
  CHECK(world.device().waits[0].find("ledger_test.cpp") == std::string::npos);
  CHECK(used(rank) == 800);
  CHECK(peak(rank) == 800);
}

TEST_CASE("a refund on the host's account is not waited for by a device allocation") {
  FakeWorld world(with_capacity(400));
  world.hold = true;
  Rank& rank = world.rank();
  Stream &home = rank.stream("home"), &other = rank.stream("other");
  {
    TensorOptions options;
    options.place = Place::host;
    const Tensor t = rank.allocate(home, Label::optimizer, 100, Dtype::fp32, options);
    other.launch(reader(rank), {t});
  }
  CHECK_THROWS_AS(tensor(rank, home, 101), Error);
  CHECK(world.device().waits.empty());
}

TEST_CASE("out of memory names who holds it: by label, and the largest tensors") {
  FakeWorld world(with_capacity(10'000));
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  const Tensor a = tensor(rank, s, 1000, "block.0.weight", Label::parameters);
  const Tensor b = tensor(rank, s, 1200, "block.1.weight", Label::gradients);
  const Error error = error_of([&] { tensor(rank, s, 1000, "block.2.input"); });
  CHECK(error.category() == Category::out_of_memory);
  CHECK(mentions(error, "block.2.input"));
  CHECK(mentions(error, "needs 4000 bytes"));
  CHECK(mentions(error, "8800 of 10000"));
  CHECK(error.context("held by gradients") == "4800 bytes");
  CHECK(error.context("held by parameters") == "4000 bytes");
  CHECK(error.context("largest") == "block.1.weight (gradients), 4800 bytes");
  CHECK(error.context("rank") == "0");
  CHECK(error.context("site").find("fake_device.hpp") != std::string::npos);
}

TEST_CASE("only the five largest tensors are named") {
  FakeWorld world(with_capacity(1000));
  Rank& rank = world.rank();
  std::vector<Tensor> held;
  for (int i = 0; i < 8; ++i)
    held.push_back(tensor(rank, rank.stream("s"), 10 + i, "t" + std::to_string(i)));
  const Error error = error_of([&] { tensor(rank, rank.stream("s"), 1000); });
  CHECK(mentions(error, "t7 (activations), 68 bytes"));
  CHECK(mentions(error, "t3 (activations)"));
  CHECK_FALSE(mentions(error, "t2 (activations)"));
}

TEST_CASE("a kernel's workspace is charged once, at the size of the largest") {
  FakeWorld world;
  world.price = [](PreparedKernel& k) { k.workspace = Bytes(k.kernel.dims[0]); };
  Rank& rank = world.rank();
  rank.prepare(Kernel::fill(64, 0, Dtype::fp32));
  rank.prepare(Kernel::fill(100, 0, Dtype::fp32));
  rank.prepare(Kernel::fill(80, 0, Dtype::fp32));
  CHECK(used(rank) == 100);
  rank.reserve(Label::reserve, Bytes(11));
  CHECK(used(rank) == 111);
}

TEST_CASE("a reservation beyond capacity is out of memory") {
  FakeWorld world(with_capacity(100));
  const Error error = error_of([&] { world.rank().reserve(Label::reserve, Bytes(101)); });
  CHECK(error.category() == Category::out_of_memory);
  CHECK(mentions(error, "reserve"));
}

TEST_CASE("an always-valued tensor is at most 4 KiB, and no size is negative") {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  TensorOptions always;
  always.values = Values::always;
  CHECK_NOTHROW(rank.allocate(s, Label::activations, 1024, Dtype::fp32, always));
  CHECK(error_of([&] {
          rank.allocate(s, Label::activations, 1025, Dtype::fp32, always);
        }).category() == Category::invalid_program);
  CHECK(error_of([&] { tensor(rank, s, -1); }).category() == Category::invalid_program);
}

TEST_CASE("memory is given back to the device after the home stream's tail at the refund") {
  FakeWorld world(replicas(1, true));
  Rank& rank = world.rank();
  Stream &home = rank.stream("home"), &other = rank.stream("other");
  Tensor t = tensor(rank, home, 4);
  other.launch(writer(rank), {t});
  t = {};
  CHECK(world.device().unmapped.empty());
  home.after(other.record());
  REQUIRE(world.device().unmapped.size() == 1);
  CHECK(world.device().unmapped[0] == home.record());
}
