// Order of operations, fences, waits, poison, memory and reports of the CPU world.
#include <atomic>
#include <mutex>
#include <thread>

#include "tests/cpu/cpu_world.hpp"

using namespace orrery;

TEST_CASE("operations of a stream run in the order they were issued") {
  std::vector<int> seen;
  run_cpu(1, [&](Rank& rank) {
    Stream& stream = rank.stream("compute");
    for (int i = 0; i < 500; ++i) stream.launch(action(rank, [&seen, i] { seen.push_back(i); }));
  });
  REQUIRE(seen.size() == 500);
  for (int i = 0; i < 500; ++i) CHECK(seen[static_cast<std::size_t>(i)] == i);
}

TEST_CASE("streams run at the same time and a fence orders them") {
  std::atomic<bool> released{false};
  std::atomic<int> ended{0};
  bool ordered = false;
  run_cpu(1, [&](Rank& rank) {
    Stream& a = rank.stream("a");
    Stream& b = rank.stream("b");
    Stream& c = rank.stream("c");
    // a can only end when b runs beside it.
    a.launch(action(rank, [&] {
      while (!released) std::this_thread::yield();
      ++ended;
    }));
    c.after(a.record());
    c.launch(action(rank, [&] { ordered = ended == 1; }));
    b.launch(action(rank, [&] { released = true; }));
  });
  CHECK(ordered);
}

TEST_CASE("a chain of fences over many streams keeps every value in order") {
  std::vector<double> result;
  run_cpu(1, [&](Rank& rank) {
    std::vector<Stream*> streams;
    for (int i = 0; i < 8; ++i) streams.push_back(&rank.stream("s" + std::to_string(i)));
    const Tensor x = rank.allocate(*streams[0], Label::activations, 1, Dtype::fp64);
    fill(rank, *streams[0], x, 1);
    const Prepared next = rank.prepare(Kernel::custom("next", {Role::update}, [](auto views) {
      auto* value = static_cast<double*>(views[0].data);
      *value = 2 * *value + 1;
    }));
    Event last = streams[0]->record();
    for (std::size_t i = 1; i <= 40; ++i) {
      Stream& stream = *streams[i % 8];
      stream.after(last);
      stream.launch(next, {x});
      last = stream.record();
    }
    rank.wait(last);
    result = rank.read(x);
  });
  CHECK(result == std::vector<double>{2199023255551.0});
}

TEST_CASE("waits of the host: events, any of several, a deadline, sleep") {
  std::atomic<bool> released{false};
  std::atomic<int> failures{0};
  run_cpu(1, [&](Rank& rank) {
    Stream& held = rank.stream("held");
    Stream& free = rank.stream("free");
    held.launch(action(rank, [&] {
      while (!released) std::this_thread::yield();
    }));
    const Event later = held.record();
    failures += rank.poll(later) ? 1 : 0;
    failures += rank.wait(later, Seconds(1e-4)) ? 1 : 0;
    free.launch(action(rank, [] {}));
    const std::vector<Event> both{later, free.record()};
    failures += rank.wait_any(both) == 1 ? 0 : 1;
    const Seconds before = rank.now();
    rank.sleep(Seconds(1e-4));
    failures += rank.now() - before >= Seconds(1e-4) ? 0 : 1;
    released = true;
    rank.wait(later);
    failures += rank.poll(later) ? 0 : 1;
    failures += rank.wait(later, Seconds(0)) ? 0 : 1;
  });
  CHECK(failures == 0);
}

TEST_CASE("a kernel that throws poisons its stream, those that wait for it, and other ranks") {
  std::atomic<int> ran{0}, caught{0};
  const auto error = error_of([&] {
    run_cpu(2, [&](Rank& rank) {
      Channel& channel = rank.channel(Axis::replicate, "gradients");
      Stream& compute = rank.stream("compute");
      Stream& comm = rank.stream("comm");
      const Tensor x = make(rank, comm, 4);
      fill(rank, comm, x, 1);
      if (rank.id() == 1)
        compute.launch(action(rank, [] { throw Error(Category::tolerance, "loss is infinite"); }));
      compute.launch(action(rank, [&] { ++ran; }));
      comm.after(compute.record());
      const Event reduced = comm.all_reduce(x, Reduce::sum, channel);
      compute.after(reduced);
      compute.launch(action(rank, [&] { ++ran; }));
      try {
        rank.wait(compute.record());
      } catch (const Error& e) {
        if (e.category() == Category::tolerance && e.message() == "loss is infinite" &&
            e.context("rank") == "1" && e.context("stream") == "compute" &&
            e.context("operation") == "action")
          ++caught;
      }
    });
  });
  CHECK(ran == 1);  // rank 0's, before the collective
  CHECK(caught == 2);
  REQUIRE(error);
  CHECK(error->category() == Category::tolerance);
}

TEST_CASE("operations before the failed one are not poisoned") {
  std::atomic<bool> early{false};
  const auto error = error_of([&] {
    run_cpu(1, [&](Rank& rank) {
      Stream& stream = rank.stream("compute");
      stream.launch(action(rank, [] {}));
      const Event good = stream.record();
      stream.launch(action(rank, [] { throw std::runtime_error("no"); }));
      try {
        rank.wait(stream.record());
      } catch (const Error&) {
        rank.wait(good);
        early = true;
      }
    });
  });
  CHECK(early);
  REQUIRE(error);
  CHECK(error->message() == "no");
  CHECK(error->context("rank") == "0");
}

TEST_CASE("an error of one rank's program ends the others and is the one reported") {
  for (int repeat = 0; repeat < 20; ++repeat) {
    const auto error = error_of([&] {
      run_cpu(3, [&](Rank& rank) {
        Channel& channel = rank.channel(Axis::replicate, "x");
        Stream& stream = rank.stream("compute");
        const Tensor x = make(rank, stream, 16);
        if (rank.id() == 2) throw Error(Category::unavailable, "rank 2 gives up");
        fill(rank, stream, x, 1);
        rank.wait(stream.all_reduce(x, Reduce::sum, channel));
      });
    });
    REQUIRE(error);
    CHECK(error->message() == "rank 2 gives up");
    CHECK(error->context("rank") == "2");
  }
}

TEST_CASE("members that issue different operations are a mismatch") {
  const auto error = error_of([&] {
    run_cpu(2, [&](Rank& rank) {
      Channel& channel = rank.channel(Axis::replicate, "x");
      Stream& stream = rank.stream("compute");
      const Tensor x = make(rank, stream, 16 + rank.id());
      rank.wait(stream.all_reduce(x, Reduce::sum, channel));
    });
  });
  REQUIRE(error);
  CHECK(error->category() == Category::mismatch);
}

TEST_CASE("the arena holds at most what the ledger says, up to rounding, and reuses memory") {
  constexpr int tensors = 40;
  Bytes peak;
  const RunReport report = run_cpu(2, [&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Stream& comm = rank.stream("comm");
    std::vector<Tensor> kept;
    for (int i = 0; i < tensors; ++i) {
      Tensor x = make(rank, i % 2 == 0 ? compute : comm, 1 + 37 * (i % 5));
      Stream& home = i % 2 == 0 ? compute : comm;
      Stream& other = i % 2 == 0 ? comm : compute;
      fill(rank, home, x, i);
      other.after(home.record());
      other.launch(rank.prepare(Kernel::linear_combination(x.elements(), 0, 2, x.dtype())), {x, x});
      if (i % 3 == 0) kept.push_back(x);
      if (i % 4 == 0) home.after(other.record());
    }
    if (rank.id() == 0) peak = rank.ledger(Place::device).peak();
  });
  CHECK(report.ranks[0].peak == peak);
  CHECK(report.arena_high_water >= peak);
  CHECK(report.arena_high_water <= peak + Bytes(64 * tensors));
}

TEST_CASE("freed memory is reused at once and values stay right") {
  std::atomic<int> wrong{0};
  run_cpu(1, [&](Rank& rank) {
    Stream& stream = rank.stream("compute");
    for (int i = 0; i < 200; ++i) {
      const Tensor x = make(rank, stream, 1000);
      fill(rank, stream, x, i);
      stream.launch(rank.prepare(Kernel::custom("check", {Role::read},
                                                [&wrong, i](auto views) {
                                                  const auto* values =
                                                      static_cast<const float*>(views[0].data);
                                                  for (int j = 0; j < 1000; ++j)
                                                    wrong +=
                                                        values[j] == static_cast<float>(i) ? 0 : 1;
                                                })),
                    {x});
    }
  });
  CHECK(wrong == 0);
}

TEST_CASE("a run without values computes only those that are always there") {
  WorldOptions options = options_for(Axis::replicate, 2);
  options.real_values = false;
  std::mutex mutex;
  std::vector<double> counts;
  std::atomic<int> refused{0};
  run_cpu(options, [&](Rank& rank) {
    Channel& channel = rank.channel(Axis::replicate, "x");
    Stream& stream = rank.stream("compute");
    const Tensor x = make(rank, stream, 1 << 20);
    fill(rank, stream, x, 1);
    rank.wait(stream.all_reduce(x, Reduce::sum, channel));
    const TensorOptions always{Place::device, Values::always, "count"};
    const Tensor count = rank.allocate(stream, Label::activations, 1, Dtype::fp32, always);
    stream.upload(count, {1.0 + rank.id()});
    stream.all_reduce(count, Reduce::sum, channel);
    const Tensor norm = rank.allocate(stream, Label::activations, 1, Dtype::fp32, always);
    fill(rank, stream, norm, 0);
    stream.launch(rank.prepare(Kernel::sum_squares(x.elements(), Dtype::fp32)), {x, norm});
    const double read = rank.read(count)[0];
    {
      const std::lock_guard lock(mutex);
      counts.push_back(read);
    }
    try {
      rank.read(norm);
    } catch (const Error& error) {
      refused += error.category() == Category::invalid_program ? 1 : 0;
    }
  });
  CHECK(counts == std::vector<double>{3, 3});
  CHECK(refused == 2);
}

TEST_CASE("the report holds steps, times that add up, channels and counts") {
  const RunReport report = run_cpu(2, [&](Rank& rank) {
    Channel& channel = rank.channel(Axis::replicate, "gradients");
    Stream& comm = rank.stream("comm");
    Stream& compute = rank.stream("compute");
    const Tensor x = make(rank, comm, 1000);
    fill(rank, comm, x, 1);
    for (int step = 0; step < 3; ++step) {
      compute.launch(action(rank, [] {}));
      comm.after(compute.record());
      compute.after(comm.all_reduce(x, Reduce::mean, channel));
      compute.mark_step(step);
      rank.record_loss(step, 0.5 * step);
    }
  });
  REQUIRE(report.ranks.size() == 2);
  for (const RankReport& rank : report.ranks) {
    REQUIRE(rank.steps.size() == 3);
    CHECK(rank.steps[0].at <= rank.steps[1].at);
    CHECK(rank.steps[1].at <= rank.steps[2].at);
    CHECK(rank.steps[2].parts.total() <= rank.steps[2].at);
    CHECK(rank.steps[1].parts.total() <= rank.steps[2].parts.total());
    REQUIRE(rank.channels.size() == 1);
    CHECK(rank.channels[0].lane == "gradients");
    CHECK(rank.channels[0].use.calls == 3);
    CHECK(rank.channels[0].use.bytes == Bytes(3 * 4000));
    CHECK(rank.channels[0].use.busy > Time{});
    CHECK(rank.channels[0].use.exposed <= rank.channels[0].use.busy);
    CHECK(rank.losses.at(2) == 1.0);
    CHECK(rank.operations > 0);
  }
  CHECK(report.end > Time{});
  CHECK(report.activities >= report.ranks[0].operations + report.ranks[1].operations);
}

TEST_CASE("a sequence runs its kernels in order on parts of its slots") {
  std::vector<double> result;
  run_cpu(1, [&](Rank& rank) {
    Stream& stream = rank.stream("compute");
    const Sequence& sequence = rank.sequence("twice", [&](Sequence& s) {
      const int x = s.slot("x"), y = s.slot("y");
      s.add(rank.prepare(Kernel::fill(2, 3, Dtype::fp32)), {{x, 1, 2}});
      s.add(rank.prepare(Kernel::linear_combination(4, 10, 1, Dtype::fp32)),
            {{x, 0, 4}, {y, 0, 4}});
    });
    const Tensor x = make(rank, stream, 4), y = make(rank, stream, 4);
    fill(rank, stream, x, 1);
    fill(rank, stream, y, 0.5);
    stream.launch(sequence, {x, y});
    result = rank.read(y);
  });
  CHECK(result == std::vector<double>{10.5, 30.5, 30.5, 10.5});
}
