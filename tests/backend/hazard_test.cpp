#include <doctest/doctest.h>

#include "tests/backend/fake_device.hpp"
#include "tests/support/errors.hpp"

using namespace orrery;

namespace {

// One tensor and three streams, none of which knows of the others.
struct Three {
  FakeWorld world;
  Rank& rank = world.rank();
  Stream &a = rank.stream("a"), &b = rank.stream("b"), &c = rank.stream("c");
  Tensor t = tensor(rank, a, 16, "weights");
  Prepared read = reader(rank), write = writer(rank);
};

}  // namespace

TEST_CASE("a write after an unordered read, a read after a write and two writes are reported") {
  for (const auto& [first, second] : {std::pair{0, 1}, std::pair{1, 0}, std::pair{1, 1}}) {
    Three x;
    x.a.launch(first == 0 ? x.read : x.write, {x.t});
    CHECK(error_of([&, w = second] { x.b.launch(w == 0 ? x.read : x.write, {x.t}); }).category() ==
          Category::unordered_access);
  }
}

TEST_CASE("two unordered reads are fine, and a write must be ordered after both") {
  Three x;
  x.a.launch(x.read, {x.t});
  x.b.launch(x.read, {x.t});
  x.c.after(x.a.record());
  CHECK(error_of([&] { x.c.launch(x.write, {x.t}); }).category() == Category::unordered_access);
  Three y;
  y.a.launch(y.read, {y.t});
  y.b.launch(y.read, {y.t});
  y.c.after(y.a.record());
  y.c.after(y.b.record());
  CHECK_NOTHROW(y.c.launch(y.write, {y.t}));
}

TEST_CASE("a report names the tensor, the rank, both operations and both call sites") {
  Three x;
  const Site first = Site::here();
  x.a.launch(x.write, {x.t});
  const Site second = Site::here();
  const Error error = error_of([&] { x.b.launch(x.read, {x.t}); });
  CHECK(mentions(error, "'weights'"));
  CHECK(error.context("rank") == "0");
  CHECK(error.context("first") ==
        "write by operation 1 of stream a (" + to_string({first.file, first.line + 1}) + ")");
  CHECK(error.context("second") ==
        "read by operation 1 of stream b (" + to_string({second.file, second.line + 1}) + ")");
}

TEST_CASE("slices that overlap clash, slices that only touch do not") {
  Three x;
  x.a.launch(x.write, {x.t.slice(0, 8)});
  CHECK_NOTHROW(x.b.launch(x.write, {x.t.slice(8, 16)}));
  CHECK_NOTHROW(x.b.launch(x.write, {x.t.slice(8, 16).slice(0, 4)}));
  CHECK(error_of([&] { x.c.launch(x.read, {x.t.slice(7, 8)}); }).category() ==
        Category::unordered_access);
}

TEST_CASE("a later write of a part does not excuse an earlier write of the whole") {
  Three x;
  x.a.launch(x.write, {x.t});
  x.b.after(x.a.record());
  x.b.launch(x.write, {x.t.slice(0, 8)});
  CHECK_NOTHROW(x.b.launch(x.read, {x.t}));
  CHECK(error_of([&] { x.c.launch(x.write, {x.t.slice(8, 16)}); }).category() ==
        Category::unordered_access);
}

TEST_CASE("racy operands are exempt, on either side") {
  Three x;
  x.a.launch(x.write, {x.t});
  CHECK_NOTHROW(x.b.launch(x.write, {x.t.racy()}));
  CHECK_NOTHROW(x.c.launch(x.read, {x.t.slice(0, 4).racy()}));
}

TEST_CASE("a racy use does not hide the strict use before it") {
  Three x;
  x.a.launch(x.write, {x.t});
  x.b.after(x.a.record());
  x.b.launch(x.write, {x.t.racy()});
  CHECK(error_of([&] { x.c.launch(x.read, {x.t}); }).category() == Category::unordered_access);
}

TEST_CASE("operations of one stream are ordered, and one operation may use a tensor twice") {
  Three x;
  const Prepared both =
      x.rank.prepare(Kernel::timed("both", Seconds(0), {Role::read, Role::write}));
  x.a.launch(both, {x.t, x.t});
  CHECK_NOTHROW(x.a.launch(x.write, {x.t}));
}

TEST_CASE("an event orders what was issued before it was recorded, and no more") {
  Three x;
  x.a.launch(x.write, {x.t});
  const Event event = x.a.record();
  x.b.after(event);
  CHECK_NOTHROW(x.b.launch(x.read, {x.t}));
  Three y;
  y.a.launch(y.read, {y.t});
  const Event early = y.a.record();
  y.a.launch(y.write, {y.t});
  y.b.after(early);
  CHECK(error_of([&] { y.b.launch(y.read, {y.t}); }).category() == Category::unordered_access);
}

TEST_CASE("what the host has waited for is ordered before everything it issues later") {
  Three x;
  x.a.launch(x.write, {x.t});
  x.rank.wait(x.a.record());
  CHECK_NOTHROW(x.b.launch(x.write, {x.t}));
  Stream& late = x.rank.stream("late");  // opened after the wait
  x.rank.wait(x.b.record());
  CHECK_NOTHROW(late.launch(x.write, {x.t}));
}

TEST_CASE("a stream opened after a host wait knows what the host knew") {
  Three x;
  x.a.launch(x.write, {x.t});
  x.rank.wait(x.a.record());
  Stream& late = x.rank.stream("late");
  CHECK_NOTHROW(late.launch(x.write, {x.t}));
}

TEST_CASE("a successful poll orders, a fruitless one does not") {
  Three x;
  x.world.hold = true;
  x.a.launch(x.write, {x.t});
  CHECK_FALSE(x.rank.poll(x.a.record()));
  x.world.settle();
  CHECK(x.rank.poll(x.a.record()));
  CHECK_NOTHROW(x.b.launch(x.write, {x.t}));
  Three y;
  y.world.hold = true;
  y.a.launch(y.write, {y.t});
  CHECK_FALSE(y.rank.poll(y.a.record()));
  CHECK(error_of([&] { y.b.launch(y.write, {y.t}); }).category() == Category::unordered_access);
  y.world.settle();
}

TEST_CASE("copies, uploads, sequences and collectives are uses like any other") {
  Three x;
  x.a.launch(x.write, {x.t});
  const Tensor to = tensor(x.rank, x.b, 16);
  CHECK(error_of([&] { x.b.copy(x.t, to); }).category() == Category::unordered_access);

  Three y;
  TensorOptions always;
  always.values = Values::always;
  const Tensor flag = y.rank.allocate(y.a, Label::activations, 1, Dtype::fp32, always);
  y.a.upload(flag, {1.0});
  CHECK(error_of([&] { y.b.upload(flag, {2.0}); }).category() == Category::unordered_access);

  Three z;
  const Sequence& sequence = z.rank.sequence("s", [&](Sequence& s) {
    const int slot = s.slot("x");
    s.add(z.read, {{slot, 0, 16}});
  });
  z.a.launch(z.write, {z.t});
  CHECK(error_of([&] { z.b.launch(sequence, {z.t}); }).category() == Category::unordered_access);

  Three w;
  Channel& channel = w.rank.channel(Axis::replicate, "g");
  w.a.launch(w.read, {w.t});
  CHECK(error_of([&] { w.b.all_reduce(w.t, Reduce::sum, channel); }).category() ==
        Category::unordered_access);
}

TEST_CASE("a sequence that only reads a slot uses it as a reader") {
  Three x;
  const Sequence& sequence = x.rank.sequence("s", [&](Sequence& s) {
    const int in = s.slot("in"), out = s.slot("out");
    const Prepared both =
        x.rank.prepare(Kernel::timed("both", Seconds(0), {Role::read, Role::write}));
    s.add(both, {{in, 0, 16}, {out, 0, 16}});
  });
  const Tensor out = tensor(x.rank, x.b, 16);
  x.a.launch(x.read, {x.t});
  CHECK_NOTHROW(x.b.launch(sequence, {x.t, out}));
}

TEST_CASE("recycled memory is its home stream's until an event says otherwise") {
  Three x;
  x.a.launch(x.write, {x.t});
  const Tensor fresh = tensor(x.rank, x.a, 16);
  CHECK(error_of([&] { x.b.launch(x.write, {fresh}); }).category() == Category::unordered_access);
  Three y;
  y.a.launch(y.write, {y.t});
  const Tensor other = tensor(y.rank, y.a, 16);
  y.b.after(y.a.record());
  CHECK_NOTHROW(y.b.launch(y.write, {other}));
}

TEST_CASE("a wrong number of operands is refused with the kernel and the call site") {
  Three x;
  CHECK(error_of([&] { x.a.launch(x.write, {x.t, x.t}); }).category() == Category::invalid_program);
  const Error error = error_of([&] { x.a.launch(x.write); });
  CHECK(error.category() == Category::invalid_program);
  CHECK(mentions(error, "writer"));
  CHECK(error.context("site").find("hazard_test.cpp") != std::string::npos);
  CHECK_NOTHROW(x.a.launch(x.write, {Operand{}}));  // an optional operand left empty
}
