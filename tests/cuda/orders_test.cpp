// What hangs on NCCL ends here by a named error, and so does what NCCL refuses.
#include <cuda_runtime_api.h>

#include <barrier>
#include <mutex>
#include <thread>

#include "tests/cpu/cpu_world.hpp"
#include "tests/cuda/double_world.hpp"

namespace orrery {
namespace {

// Patience that begins when `ranks` programs have come to where they hang, however slow the
// machine.
class Patience {
 public:
  explicit Patience(int ranks) : missing_(std::make_shared<std::atomic<int>>(ranks)) {}
  void hangs_now() const { --*missing_; }
  cuda::CudaOptions in(cuda::CudaOptions options) const {
    options.clock = [missing = missing_, time = counted_time()] {
      return *missing > 0 ? Seconds(0) : time();
    };
    options.patience = Seconds(2000);
    return options;
  }

 private:
  std::shared_ptr<std::atomic<int>> missing_;
};

// Has a place at a barrier, also where it never comes to it.
class AtBarrier {
 public:
  explicit AtBarrier(std::barrier<>& barrier) : barrier_(barrier) {}
  ~AtBarrier() { barrier_.arrive_and_drop(); }
  AtBarrier(const AtBarrier&) = delete;
  AtBarrier& operator=(const AtBarrier&) = delete;
  void wait() { barrier_.arrive_and_wait(); }

 private:
  std::barrier<>& barrier_;
};

void check_fails(Category category, const WorldOptions& options, const World::Program& program,
                 const std::vector<std::string>& parts,
                 const cuda::CudaOptions& cuda = on_the_double()) {
  const auto error = error_of([&] { run_on_double(options, program, cuda); });
  REQUIRE(error);
  CAPTURE(error->what());
  CHECK(error->category() == category);
  CHECK(mentions(*error, parts));
}

// Two processes, as far as their communicators go: each checks its own ranks only, so nothing but
// the transport sees that their orders differ.
class Apart {
 public:
  explicit Apart(Seconds patience = Seconds(1e18)) {
    grid_.set(Axis::replicate, 2);
    for (int rank = 0; rank < 2; ++rank) {
      communicators_.push_back(std::make_unique<Communicators>(grid_));
      cudaSetDevice(rank);
      transport::Waiting waiting{[] {}, patience, counted_time()};
      transports_.push_back(transport::make_nccl_transport(rank, store_, waiting));
    }
  }
  ~Apart() {
    for (auto& transport : transports_) transport->abort();
    for (CUstream_st* stream : streams_) {
      cudaStreamSynchronize(stream);
      cudaStreamDestroy(stream);
    }
  }
  const Communicator* group(int rank, const std::string& lane) {
    return &communicators_[static_cast<std::size_t>(rank)]->group(rank, Axis::replicate, lane);
  }
  transport::Transport& of(int rank) { return *transports_[static_cast<std::size_t>(rank)]; }
  // Runs `program(rank)` for both at once; what they throw.
  std::vector<std::optional<Error>> run(const std::function<void(int)>& program) {
    std::vector<std::optional<Error>> errors(2);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 2; ++rank)
      threads.emplace_back([&, rank] {
        cudaSetDevice(rank);
        errors[static_cast<std::size_t>(rank)] = error_of([&] { program(rank); });
      });
    for (std::thread& thread : threads) thread.join();
    return errors;
  }
  CUstream_st* stream() {
    CUstream_st* fresh = nullptr;
    cudaStreamCreateWithFlags(&fresh, cudaStreamNonBlocking);
    const std::lock_guard lock(mutex_);
    streams_.push_back(fresh);
    return fresh;
  }
  // Whether all that is on the stream was done within a number of looks.
  static bool ends(CUstream_st* stream) {
    for (int look = 0; look < 200; ++look) {
      if (cudaStreamQuery(stream) == cudaSuccess) return true;
      std::this_thread::yield();
    }
    return false;
  }

 private:
  Grid grid_;
  transport::LocalStore store_;
  std::vector<std::unique_ptr<Communicators>> communicators_;
  std::vector<std::unique_ptr<transport::Transport>> transports_;
  std::mutex mutex_;
  std::vector<CUstream_st*> streams_;
};

Communication all_reduce(const Communicator* communicator, int member, std::int64_t elements) {
  Communication c;
  c.kind = Collective::all_reduce;
  c.communicator = const_cast<Communicator*>(communicator);
  c.member = member;
  c.elements = elements;
  return c;
}

}  // namespace

TEST_CASE("a collective that a rank never issues ends by patience and names who waits") {
  const Patience patience(1);
  check_fails(
      Category::deadlock, options_for(Axis::replicate, 2),
      [&](Rank& rank) {
        Channel& channel = rank.channel(Axis::replicate, "gradients");
        Stream& comm = rank.stream("comm");
        const Tensor x = make(rank, comm, 8);
        if (rank.id() != 0) return;
        const Event end = comm.all_reduce(x, Reduce::sum, channel);
        patience.hangs_now();
        rank.wait(end);
      },
      {"rank 0 stream comm", "all_reduce on replicate/gradients", "orders_test.cpp"},
      patience.in(on_the_double()));
}

TEST_CASE("sends in a ring before their receives on one stream hang on NCCL and on one GPU") {
  for (const auto& options : {on_the_double(), on_one_gpu()}) {
    const Patience patience(2);
    check_fails(
        Category::deadlock, options_for(Axis::pipeline, 2),
        [&](Rank& rank) {
          Channel& forward = rank.edge(Axis::pipeline, 1, "forward");
          Stream& p2p = rank.stream("p2p");
          const Tensor x = make(rank, p2p, 8), y = make(rank, p2p, 8);
          p2p.send(x, forward);
          p2p.receive(y, forward);
          const Event end = p2p.record();
          patience.hangs_now();
          rank.wait(end);
        },
        {"rank 0 stream p2p", "rank 1 stream p2p", "send on pipeline+1/forward"},
        patience.in(options));
  }
}

TEST_CASE("the same sends on streams of their own, and an exchange, do not") {
  std::atomic<int> right{0};
  run_on_double(options_for(Axis::pipeline, 2), [&](Rank& rank) {
    Channel& forward = rank.edge(Axis::pipeline, 1, "forward");
    Stream& out = rank.stream("out");
    Stream& in = rank.stream("in");
    const Tensor x = make(rank, out, 8), y = make(rank, in, 8);
    fill(rank, out, x, rank.id() + 1);
    out.send(x, forward);
    rank.wait(in.receive(y, forward));
    if (rank.read(y) == std::vector<double>(8, 2 - rank.id())) ++right;
  });
  run_on_double(options_for(Axis::replicate, 2), [&](Rank& rank) {
    Channel& group = rank.channel(Axis::replicate, "peers");
    Stream& comm = rank.stream("comm");
    const Tensor x = make(rank, comm, 8), y = make(rank, comm, 8);
    fill(rank, comm, x, rank.id() + 1);
    rank.wait(comm.exchange(x, y, 1 - rank.id(), group));
    if (rank.read(y) == std::vector<double>(8, 2 - rank.id())) ++right;
  });
  CHECK(right == 4);
}

TEST_CASE("every collective has the values of its definition") {
  for (const auto& options : {on_the_double(), on_one_gpu()}) {
    std::atomic<int> right{0};
    run_on_double(
        options_for(Axis::replicate, 3),
        [&](Rank& rank) {
          Channel& group = rank.channel(Axis::replicate, "group");
          Stream& comm = rank.stream("comm");
          const int me = rank.id();
          const auto check = [&](Event event, const Tensor& x,
                                 const std::vector<double>& expected) {
            rank.wait(event);
            if (rank.read(x) == expected) ++right;
          };
          const Tensor one = make(rank, comm, 1), three = make(rank, comm, 3),
                       all = make(rank, comm, 3);
          fill(rank, comm, one, me);
          check(comm.all_gather(three, one, group), three, {0, 1, 2});
          check(comm.reduce_scatter(one, three, Reduce::sum, group), one, {3.0 * me});
          check(comm.all_reduce(one, Reduce::mean, group), one, {3});
          check(comm.all_to_all(all, three, group), all, {1.0 * me, 1.0 * me, 1.0 * me});
          check(comm.all_reduce(all, Reduce::max, group), all, {2, 2, 2});
          fill(rank, comm, one, me);
          check(comm.broadcast(one, 2, group), one, {2});
        },
        options);
    CHECK(right == 18);
  }
}

TEST_CASE(
    "two channels whose members use them in different orders are reported as they are issued") {
  check_fails(Category::deadlock, options_for(Axis::replicate, 2),
              [](Rank& rank) {
                Channel& a = rank.channel(Axis::replicate, "a");
                Channel& b = rank.channel(Axis::replicate, "b");
                Stream& on_a = rank.stream("on a");
                Stream& on_b = rank.stream("on b");
                const Tensor x = make(rank, on_a, 8), y = make(rank, on_b, 8);
                if (rank.id() == 0) on_a.all_reduce(x, Reduce::sum, a);
                on_b.all_reduce(y, Reduce::sum, b);
                if (rank.id() == 1) on_a.all_reduce(x, Reduce::sum, a);
              },
              {"issued in different orders"});
}

TEST_CASE("between processes the same hangs, and aborting ends it") {
  Apart two;
  std::barrier seen(2);  // nobody aborts before both have looked
  const auto errors = two.run([&](int rank) {
    AtBarrier both(seen);
    const Communicator *a = two.group(rank, "a"), *b = two.group(rank, "b");
    two.of(rank).open(rank == 0 ? std::vector{a, b} : std::vector{b, a});  // its order is no matter
    std::vector<float> x(8, 1), y(8, 1);
    CUstream_st *on_a = two.stream(), *on_b = two.stream();
    const View vx{x.data(), 8, Dtype::fp32}, vy{y.data(), 8, Dtype::fp32};
    if (rank == 0) two.of(rank).issue(on_a, all_reduce(a, rank, 8), vx, vx);
    two.of(rank).issue(on_b, all_reduce(b, rank, 8), vy, vy);
    if (rank == 1) two.of(rank).issue(on_a, all_reduce(a, rank, 8), vx, vx);
    CHECK_FALSE(Apart::ends(on_a));
    CHECK_FALSE(Apart::ends(on_b));
    both.wait();
    two.of(rank).abort();
    while (cudaStreamQuery(on_a) != cudaSuccess || cudaStreamQuery(on_b) != cudaSuccess)
      std::this_thread::yield();
    two.of(rank).issue(on_a, all_reduce(a, rank, 8), vx, vx);
  });
  for (const auto& error : errors) {
    REQUIRE(error);
    CHECK(mentions(*error, {"aborted"}));
  }
}

TEST_CASE("members that call different sizes hang; equal sizes give the sum") {
  for (const bool equal : {false, true}) {
    Apart two;
    std::barrier seen(2);
    const auto errors = two.run([&](int rank) {
      AtBarrier both(seen);
      const Communicator* a = two.group(rank, "a");
      two.of(rank).open({a});
      std::vector<float> x(8, static_cast<float>(rank + 1));
      const std::int64_t elements = equal || rank == 0 ? 8 : 4;
      const View view{x.data(), elements, Dtype::fp32};
      CUstream_st* stream = two.stream();
      two.of(rank).issue(stream, all_reduce(a, rank, elements), view, view);
      if (!equal) {
        CHECK_FALSE(Apart::ends(stream));
        both.wait();
        two.of(rank).abort();
      }
      while (cudaStreamQuery(stream) != cudaSuccess) std::this_thread::yield();
      if (equal) CHECK(x == std::vector<float>(8, 3));
    });
    for (const auto& error : errors) CHECK_FALSE(error);
  }
}

TEST_CASE("a member that never opens a channel ends the others' opening by patience") {
  Apart two(Seconds(2000));
  const auto errors = two.run([&](int rank) {
    if (rank == 0) two.of(rank).open({two.group(rank, "a")});
  });
  REQUIRE(errors[0]);
  CHECK(errors[0]->category() == Category::deadlock);
  CHECK(mentions(*errors[0], {"opening channel replicate/a@0,1", "rank: 0"}));
}

TEST_CASE("NCCL refuses two ranks on one GPU") {
  cuda::CudaOptions options = on_the_double();
  options.gpu = [](int) { return 0; };
  check_fails(
      Category::unavailable, options_for(Axis::replicate, 2),
      [](Rank& rank) {
        Channel& channel = rank.channel(Axis::replicate, "gradients");
        Stream& comm = rank.stream("comm");
        const Tensor x = make(rank, comm, 8);
        comm.all_reduce(x, Reduce::sum, channel);
      },
      {"Duplicate GPU", "replicate/gradients"}, options);
}

TEST_CASE("on one GPU a throttle makes each operation take the time of its links") {
  std::atomic<std::uint64_t> delayed{0};
  run_on_double(
      options_for(Axis::replicate, 4),
      [](Rank& rank) {
        Channel& channel = rank.channel(Axis::replicate, "gradients");
        Stream& comm = rank.stream("comm");
        comm.all_reduce(make(rank, comm, 1000), Reduce::sum, channel);
      },
      on_one_gpu(Throttle{Seconds(1e-6), BytesPerSecond(1e9)}, &delayed));
  CHECK(delayed == 12'000'000);  // 2 * 3 * (1 us + 4 kB / (4 * 1 GB/s)), in picoseconds
}

TEST_CASE("what a kernel throws ends the run and names the rank") {
  check_fails(Category::invalid_program, options_for(Axis::replicate, 2),
              [](Rank& rank) {
                Channel& channel = rank.channel(Axis::replicate, "gradients");
                Stream& comm = rank.stream("comm");
                const Tensor x = make(rank, comm, 8);
                const Prepared fails = action(rank, [] { throw std::runtime_error("no luck"); });
                if (rank.id() == 1) comm.launch(fails);
                rank.wait(comm.all_reduce(x, Reduce::sum, channel));
                rank.wait(rank.stream("other").record());
              },
              {"no luck", "rank: 1"});
}

TEST_CASE("a program that ends early on one rank ends the others") {
  check_fails(Category::invalid_program, options_for(Axis::replicate, 4),
              [](Rank& rank) {
                Channel& channel = rank.channel(Axis::replicate, "gradients");
                Stream& comm = rank.stream("comm");
                const Tensor x = make(rank, comm, 8);
                rank.wait(comm.all_reduce(x, Reduce::sum, channel));
                if (rank.id() == 2) throw Error(Category::invalid_program, "enough");
                rank.wait(comm.all_reduce(x, Reduce::sum, channel));
              },
              {"enough", "rank: 2"});
}

TEST_CASE("a write waits for what its memory was used for before") {
  std::atomic<bool> right{false};
  run_on_double(options_for(Axis::replicate, 1), [&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    const Prepared busy = action(rank, [] {  // so that the write would be first if it did not wait
      for (int i = 0; i < 500; ++i) std::this_thread::yield();
    });
    for (int i = 0; i < 5; ++i) {
      compute.launch(busy);
      { fill(rank, compute, make(rank, compute, 4096), 7); }
      const Tensor x = make(rank, compute, 4096);
      const std::vector<float> values(4096, static_cast<float>(i));
      rank.write_bytes(x, std::as_bytes(std::span(values)));
      fill(rank, compute, make(rank, compute, 8), 0);
      rank.wait(compute.record());
      if (rank.read(x) != std::vector<double>(4096, i)) return;
    }
    right = true;
  });
  CHECK(right);
}

}  // namespace orrery
