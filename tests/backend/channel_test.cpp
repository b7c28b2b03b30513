#include "backend/channel.hpp"

#include <doctest/doctest.h>

#include <functional>

#include "tests/backend/fake_device.hpp"
#include "tests/support/errors.hpp"

using namespace orrery;

namespace {

// One side of an operation on a channel of two ranks: what rank `r` issues on stream `s`.
using Side = std::function<void(Rank& r, Stream& s, Channel& channel)>;

Side all_reduce(std::int64_t elements, Reduce reduce = Reduce::sum, Dtype dtype = Dtype::fp32) {
  return [=](Rank& r, Stream& s, Channel& channel) {
    s.all_reduce(tensor(r, s, elements, "x", Label::gradients, dtype), reduce, channel);
  };
}
Side broadcast(std::int64_t elements, int root) {
  return [=](Rank& r, Stream& s, Channel& channel) {
    s.broadcast(tensor(r, s, elements), root, channel);
  };
}
Side all_gather(std::int64_t whole) {
  return [=](Rank& r, Stream& s, Channel& channel) {
    s.all_gather(tensor(r, s, whole), tensor(r, s, whole / 2), channel);
  };
}
Side reduce_scatter(std::int64_t whole, Reduce reduce = Reduce::sum) {
  return [=](Rank& r, Stream& s, Channel& channel) {
    s.reduce_scatter(tensor(r, s, whole / 2), tensor(r, s, whole), reduce, channel);
  };
}
Side all_to_all(std::int64_t elements) {
  return [=](Rank& r, Stream& s, Channel& channel) {
    s.all_to_all(tensor(r, s, elements), tensor(r, s, elements), channel);
  };
}

// The error of the second rank when the first issued `a` and it issues `b` as the same operation.
Error clash(const Side& a, const Side& b) {
  FakeWorld world(replicas(2));
  world.hold = true;
  Stream &s0 = world.rank(0).stream("s"), &s1 = world.rank(1).stream("s");
  Channel &c0 = world.rank(0).channel(Axis::replicate, "lane"),
          &c1 = world.rank(1).channel(Axis::replicate, "lane");
  a(world.rank(0), s0, c0);
  return error_of([&] { b(world.rank(1), s1, c1); });
}

bool fits(const Side& a, const Side& b) {
  FakeWorld world(replicas(2));
  a(world.rank(0), world.rank(0).stream("s"), world.rank(0).channel(Axis::replicate, "lane"));
  b(world.rank(1), world.rank(1).stream("s"), world.rank(1).channel(Axis::replicate, "lane"));
  return world.rank(0).channel(Axis::replicate, "lane").outgoing().all_pending().empty();
}

}  // namespace

TEST_CASE("members that issue the same operation find each other, whatever its kind") {
  CHECK(fits(all_reduce(8), all_reduce(8)));
  CHECK(fits(all_gather(8), all_gather(8)));
  CHECK(fits(reduce_scatter(8), reduce_scatter(8)));
  CHECK(fits(broadcast(8, 1), broadcast(8, 1)));
  CHECK(fits(all_to_all(8), all_to_all(8)));
}

TEST_CASE("another kind, size, type, reduction or root is a mismatch that names both sides") {
  const std::vector<std::pair<Side, Side>> pairs{
      {all_reduce(8), all_gather(8)},
      {all_reduce(8), broadcast(8, 0)},
      {all_gather(8), reduce_scatter(8)},
      {all_to_all(8), all_gather(8)},
      {all_reduce(8), all_reduce(9)},
      {all_gather(8), all_gather(10)},
      {all_reduce(8), all_reduce(8, Reduce::mean)},
      {reduce_scatter(8), reduce_scatter(8, Reduce::mean)},
      {all_reduce(8), all_reduce(8, Reduce::sum, Dtype::bf16)},
      {broadcast(8, 0), broadcast(8, 1)}};
  for (const auto& [a, b] : pairs) {
    const Error error = clash(a, b);
    CHECK(error.category() == Category::mismatch);
    CHECK(mentions(error, "replicate/lane"));
    CHECK(error.context("rank 0").find("channel_test.cpp:") != std::string::npos);
    CHECK(error.context("rank 1").find("channel_test.cpp:") != std::string::npos);
    CHECK(error.context("rank 0") != error.context("rank 1"));
  }
}

TEST_CASE("a mismatch says what each side issued, and as which operation of the channel") {
  const Error error = clash(
      [](Rank& r, Stream& s, Channel& channel) {
        all_reduce(4)(r, s, channel);
        all_reduce(8, Reduce::mean)(r, s, channel);
      },
      [](Rank& r, Stream& s, Channel& channel) {
        all_reduce(4)(r, s, channel);
        broadcast(8, 1)(r, s, channel);
      });
  CHECK(mentions(error, "as number 1"));
  CHECK(error.context("rank 0").find("all_reduce of 8 fp32, mean") != std::string::npos);
  CHECK(error.context("rank 1").find("broadcast of 8 fp32, root 1") != std::string::npos);
}

TEST_CASE("two channels used in different orders are a deadlock that names both") {
  FakeWorld world(replicas(2));
  world.hold = true;
  for (int id = 0; id < 2; ++id) {
    Rank& rank = world.rank(id);
    Channel &a = rank.channel(Axis::replicate, "a"), &b = rank.channel(Axis::replicate, "b");
    Stream &on_a = rank.stream("a"), &on_b = rank.stream("b");
    if (id == 0) {
      all_reduce(8)(rank, on_a, a);
      all_reduce(8)(rank, on_b, b);
    } else {
      const Error error = error_of([&] {
        all_reduce(8)(rank, on_b, b);
        all_reduce(8)(rank, on_a, a);
      });
      CHECK(error.category() == Category::deadlock);
      CHECK(mentions(error, "replicate/a"));
      CHECK(mentions(error, "replicate/b"));
      CHECK(error.context("rank 0").find("channel_test.cpp:") != std::string::npos);
      CHECK(error.context("rank 1").find("channel_test.cpp:") != std::string::npos);
    }
  }
}

TEST_CASE("one order on all members is no deadlock, however far one runs ahead") {
  FakeWorld world(replicas(2));
  for (int id = 0; id < 2; ++id) {
    Rank& rank = world.rank(id);
    Channel &a = rank.channel(Axis::replicate, "a"), &b = rank.channel(Axis::replicate, "b");
    for (int i = 0; i < 10; ++i) {
      all_reduce(8)(rank, rank.stream("a"), a);
      if (i % 3 == 0) all_reduce(8)(rank, rank.stream("b"), b);
    }
  }
  CHECK(world.rank(0).channel(Axis::replicate, "a").outgoing().all_pending().empty());
  CHECK(world.rank(0).channel(Axis::replicate, "b").outgoing().all_pending().empty());
}

TEST_CASE("exchanges of different pairs do not wait for each other, and match per pair in order") {
  FakeWorld world(replicas(4, true));
  std::vector<Tensor> mine, theirs;
  std::vector<Stream*> streams;
  for (int id = 0; id < 4; ++id) {
    Rank& rank = world.rank(id);
    streams.push_back(&rank.stream("s"));
    mine.push_back(tensor(rank, *streams.back(), 1));
    theirs.push_back(tensor(rank, *streams.back(), 1));
    const auto value = static_cast<float>(10 + id);
    rank.write_bytes(mine.back(), std::as_bytes(std::span(&value, 1)));
  }
  const auto exchange = [&](int id, int peer) {
    const auto i = static_cast<std::size_t>(id);
    streams[i]->exchange(mine[i], theirs[i], peer,
                         world.rank(id).channel(Axis::replicate, "gossip"));
  };
  for (int id = 0; id < 4; ++id) world.rank(id).channel(Axis::replicate, "gossip");
  exchange(2, 1);
  exchange(3, 0);
  exchange(0, 3);
  CHECK(world.rank(3).read(theirs[3]) == std::vector{10.0});
  exchange(1, 2);
  CHECK(world.rank(1).read(theirs[1]) == std::vector{12.0});
  CHECK(world.rank(2).read(theirs[2]) == std::vector{11.0});
  exchange(0, 1);
  exchange(1, 0);
  CHECK(world.rank(0).read(theirs[0]) == std::vector{11.0});
  CHECK(world.rank(0).channel(Axis::replicate, "gossip").outgoing().all_pending().empty());
}

TEST_CASE("an exchange of another size is a mismatch; with oneself or a stranger it is refused") {
  const auto exchange = [](std::int64_t elements, int peer) {
    return [=](Rank& r, Stream& s, Channel& channel) {
      s.exchange(tensor(r, s, elements), tensor(r, s, elements), peer, channel);
    };
  };
  CHECK(clash(exchange(8, 1), exchange(9, 0)).category() == Category::mismatch);
  CHECK(clash([](Rank&, Stream&, Channel&) {}, exchange(8, 1)).category() ==
        Category::invalid_program);
  CHECK(clash([](Rank&, Stream&, Channel&) {}, exchange(8, 2)).category() ==
        Category::invalid_program);
}

TEST_CASE("an edge leads from each rank to the next, and a send meets the receive of its target") {
  WorldOptions options;
  options.grid.set(Axis::pipeline, 3);
  options.real_values = true;
  FakeWorld world(options);
  std::vector<Tensor> out, in;
  for (int id = 0; id < 3; ++id) {
    Rank& rank = world.rank(id);
    out.push_back(tensor(rank, rank.stream("out"), 1));
    in.push_back(tensor(rank, rank.stream("in"), 1));
    const auto value = static_cast<float>(id);
    rank.write_bytes(out.back(), std::as_bytes(std::span(&value, 1)));
    rank.stream("out").send(out.back(), rank.edge(Axis::pipeline, 1, "forward"));
    rank.stream("in").receive(in.back(), rank.edge(Axis::pipeline, 1, "forward"));
  }
  for (int id = 0; id < 3; ++id)
    CHECK(world.rank(id).read(in[static_cast<std::size_t>(id)]) ==
          std::vector{static_cast<double>((id + 2) % 3)});
  CHECK(world.rank(0).edge(Axis::pipeline, 1, "forward").name() == "pipeline+1/forward");
}

TEST_CASE("a send and a receive of different sizes are a mismatch with both call sites") {
  WorldOptions options;
  options.grid.set(Axis::pipeline, 2);
  FakeWorld world(options);
  world.hold = true;
  Rank &from = world.rank(0), &to = world.rank(1);
  from.stream("out").send(tensor(from, from.stream("out"), 8), from.edge(Axis::pipeline, 1, "x"));
  const Error error = error_of([&] {
    to.stream("in").receive(tensor(to, to.stream("in"), 9), to.edge(Axis::pipeline, 1, "x"));
  });
  CHECK(error.category() == Category::mismatch);
  CHECK(error.context("rank 0").find("send of 8") != std::string::npos);
  CHECK(error.context("rank 1").find("receive of 9") != std::string::npos);
}

TEST_CASE("an edge that leads back to its rank is refused") {
  WorldOptions options;
  options.grid.set(Axis::pipeline, 2);
  FakeWorld world(options);
  CHECK(error_of([&] { world.rank().edge(Axis::pipeline, 2, "x"); }).category() ==
        Category::invalid_program);
  CHECK(error_of([&] { world.rank().edge(Axis::tensor, 1, "x"); }).category() ==
        Category::invalid_program);
}

TEST_CASE("an edge carries sends and receives only, a group everything else") {
  WorldOptions options;
  options.grid.set(Axis::pipeline, 2);
  FakeWorld world(options);
  world.hold = true;
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  const Tensor t = tensor(rank, s, 8);
  CHECK(error_of([&] {
          s.all_reduce(t, Reduce::sum, rank.edge(Axis::pipeline, 1, "x"));
        }).category() == Category::invalid_program);
  CHECK(error_of([&] { s.send(t, rank.channel(Axis::pipeline, "y")); }).category() ==
        Category::invalid_program);
}

TEST_CASE("a channel belongs to the first stream that uses it") {
  FakeWorld world(replicas(2));
  world.hold = true;
  Rank& rank = world.rank();
  Channel& channel = rank.channel(Axis::replicate, "x");
  all_reduce(8)(rank, rank.stream("first"), channel);
  const Error error = error_of([&] { all_reduce(8)(rank, rank.stream("second"), channel); });
  CHECK(error.category() == Category::invalid_program);
  CHECK(mentions(error, "first"));
  CHECK(mentions(error, "second"));
}

TEST_CASE("a channel opened after communication is refused; one opened before is found again") {
  FakeWorld world(replicas(2));
  world.hold = true;
  Rank& rank = world.rank();
  Channel& channel = rank.channel(Axis::replicate, "x");
  all_reduce(8)(rank, rank.stream("s"), channel);
  CHECK(&rank.channel(Axis::replicate, "x") == &channel);
  for (const auto& open :
       std::vector<std::function<void()>>{[&] { rank.channel(Axis::replicate, "y"); },
                                          [&] { rank.edge(Axis::replicate, 1, "y"); }}) {
    const Error error = error_of(open);
    CHECK(error.category() == Category::invalid_program);
    CHECK(error.context("rank") == "0");
  }
}

TEST_CASE("buffers that do not divide over the group are refused with the call site") {
  FakeWorld world(replicas(2));
  Rank& rank = world.rank();
  Stream& s = rank.stream("s");
  Channel& channel = rank.channel(Axis::replicate, "x");
  const std::vector<std::function<void()>> calls{
      [&] { s.all_gather(tensor(rank, s, 8), tensor(rank, s, 3), channel); },
      [&] { s.reduce_scatter(tensor(rank, s, 3), tensor(rank, s, 8), Reduce::sum, channel); },
      [&] { s.all_to_all(tensor(rank, s, 7), tensor(rank, s, 7), channel); },
      [&] { s.all_to_all(tensor(rank, s, 8), tensor(rank, s, 6), channel); },
      [&] { s.broadcast(tensor(rank, s, 8), 2, channel); }};
  for (const auto& call : calls) {
    const Error error = error_of(call);
    CHECK(error.category() == Category::invalid_program);
    CHECK(error.context("site").find("channel_test.cpp") != std::string::npos);
  }
}

TEST_CASE("bytes on the wire follow the ring and pairwise formulas, rounded") {
  CHECK(wire_bytes(Collective::all_reduce, Bytes(1000), 4) == Bytes(1500));
  CHECK(wire_bytes(Collective::all_gather, Bytes(1000), 4) == Bytes(750));
  CHECK(wire_bytes(Collective::reduce_scatter, Bytes(1000), 3) == Bytes(667));
  CHECK(wire_bytes(Collective::broadcast, Bytes(1000), 3) == Bytes(667));
  CHECK(wire_bytes(Collective::all_to_all, Bytes(10), 3) == Bytes(7));
  CHECK(wire_bytes(Collective::send, Bytes(11), 2) == Bytes(11));
  CHECK(wire_bytes(Collective::exchange, Bytes(11), 5) == Bytes(11));
  CHECK(wire_bytes(Collective::receive, Bytes(11), 2) == Bytes(0));
  CHECK(wire_bytes(Collective::all_reduce, Bytes(1000), 1) == Bytes(0));
}

TEST_CASE("a channel counts calls and bytes by kind") {
  FakeWorld world(replicas(2));
  Rank &a = world.rank(0), &b = world.rank(1);
  for (Rank* rank : {&a, &b}) {
    Channel& channel = rank->channel(Axis::replicate, "x");
    all_reduce(100)(*rank, rank->stream("s"), channel);
    all_reduce(50)(*rank, rank->stream("s"), channel);
    all_gather(100)(*rank, rank->stream("s"), channel);
  }
  const auto& uses = a.channel(Axis::replicate, "x").uses();
  REQUIRE(uses.size() == 2);
  CHECK(uses[0].calls == 2);
  CHECK(uses[0].bytes == Bytes(600));
  CHECK(uses[1].kind == Collective::all_gather);
  CHECK(uses[1].bytes == Bytes(200));
}

TEST_CASE("a pending operation says who is missing") {
  FakeWorld world(replicas(3));
  world.hold = true;
  Rank& rank = world.rank(1);
  Channel& channel = rank.channel(Axis::replicate, "x");
  all_reduce(8)(rank, rank.stream("s"), channel);
  const auto pending = channel.outgoing().all_pending();
  REQUIRE(pending.size() == 1);
  CHECK(pending[0]->missing() == std::vector{0, 2});
  CHECK(pending[0]->describe().find("all_reduce #0 on replicate/x (") == 0);
}
