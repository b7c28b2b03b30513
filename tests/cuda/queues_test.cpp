// What would hang or lie on a GPU without any order of the program's being wrong: full queues,
// lazily loaded kernels, ranks of other processes, times that are looked at late.
#include <cuda_runtime_api.h>

#include <atomic>
#include <future>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "backend/cuda/pinned.hpp"
#include "tests/cpu/cpu_world.hpp"
#include "tests/cuda/double_world.hpp"

namespace orrery {
namespace {

// Another process with one rank, which is lost or ends when a test says so.
class OtherProcess final : public cuda::Peers {
 public:
  void listen(Listener listener) override {
    const std::lock_guard lock(mutex_);
    listener_ = std::move(listener);
  }
  void send(int, const ControlMessage&) override { asked_.set_value(); }
  void await_question() { asked_.get_future().wait(); }
  void say(std::int64_t value) {
    const std::lock_guard lock(mutex_);
    listener_.message(0, {1, 5, {value}, {"another process", 0}});
  }
  void end() {
    const std::lock_guard lock(mutex_);
    if (listener_.all_ended) listener_.all_ended();  // else the run is over, and listens no more
  }

 private:
  std::mutex mutex_;
  Listener listener_;
  std::promise<void> asked_;
};

// Rank 0 of two, the other being in another process.
cuda::CudaOptions beside(cuda::Peers& peers) {
  cuda::CudaOptions options = on_the_double();
  options.first_rank = 0;
  options.ranks_here = 1;
  options.peers = &peers;
  return options;
}

// Takes a millisecond or so of a core.
void work() {
  volatile std::int64_t sum = 0;
  for (std::int64_t i = 0; i < 400'000; ++i) sum = sum + i;
}

// Rank 0's compute stream, or its host, waits for all-reduces that rank 1 is slow to come to.
RankReport waiting_for(int operations, bool host_waits) {
  std::promise<void> come;
  RunReport report = run_on_double(options_for(Axis::replicate, 2), [&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Stream& comm = rank.stream("comm");
    Channel& channel = rank.channel(Axis::replicate, "gradients");
    const Tensor x = make(rank, comm, 8);
    comm.all_reduce(x, Reduce::sum, channel);
    rank.wait(comm.record());  // so that nobody is late for the opening
    const Prepared here = action(rank, [&] { come.set_value(); });
    const Prepared busy = action(rank, work);
    if (rank.id() == 1) come.get_future().wait();
    for (int i = 0; i < operations; ++i) {
      for (int j = 0; rank.id() == 1 && j < 100 / operations; ++j) comm.launch(busy);
      comm.all_reduce(x, Reduce::sum, channel);
    }
    if (rank.id() == 0) {
      compute.launch(here);
      if (host_waits) rank.wait(comm.record());
      if (!host_waits) compute.after(comm.record());
      compute.launch(action(rank, [] {}));
      compute.mark_step(0);
    }
  });
  return report.ranks[0];
}

}  // namespace

TEST_CASE("a run that fails ends, though there is no room for more on its streams") {
  cuda_double::set_queue_depth(64);
  for (cuda::CudaOptions options : {on_the_double(), on_one_gpu()}) {
    options.queue = 48;
    const auto error = error_of([&] {
      run_on_double(
          options_for(Axis::replicate, 2),
          [](Rank& rank) {
            Channel& channel = rank.channel(Axis::replicate, "gradients");
            Stream& comm = rank.stream("comm");
            const Tensor x = make(rank, comm, 8);
            rank.wait(comm.all_reduce(x, Reduce::sum, channel));
            if (rank.id() == 1) throw Error(Category::invalid_program, "enough");
            for (int i = 0; i < 100; ++i) comm.all_reduce(x, Reduce::sum, channel);
          },
          options);
    });
    REQUIRE(error);
    CHECK(mentions(*error, {"enough", "rank: 1"}));
  }
}

TEST_CASE("a rank that is far ahead of another on its GPU leaves that the room to follow") {
  cuda_double::set_queue_depth(64);
  cuda::CudaOptions options = on_one_gpu();
  options.queue = 48;
  std::promise<void> ahead;
  std::atomic<int> issued{0};
  run_on_double(
      options_for(Axis::replicate, 2),
      [&](Rank& rank) {
        Stream& comm = rank.stream("comm");
        Stream& compute = rank.stream("compute");
        Channel& channel = rank.channel(Axis::replicate, "gradients");
        const Tensor x = make(rank, comm, 8);
        rank.wait(comm.all_reduce(x, Reduce::sum, channel));
        const Prepared busy = action(rank, [] {});
        if (rank.id() == 0) {
          ahead.get_future().wait();
          work();
          CHECK(issued < 100);  // the other waits for room
        }
        comm.all_reduce(x, Reduce::sum, channel);
        compute.after(comm.record());
        if (rank.id() == 1) ahead.set_value();
        for (int i = 0; i < 100; ++i) {
          compute.launch(busy);
          if (rank.id() == 1) issued = i + 1;
        }
        rank.wait(compute.record());
      },
      options);
  CHECK(issued == 100);
}

TEST_CASE("what the compute stream or the host waits for is exposed, be it one operation or many") {
  for (const int operations : {1, 50})
    for (const bool host_waits : {false, true}) {
      CAPTURE(operations);
      CAPTURE(host_waits);
      const RankReport report = waiting_for(operations, host_waits);
      REQUIRE(report.channels.size() == 1);
      const Time exposed = report.channels[0].use.exposed,
                 waited = report.steps.at(0).parts.exposed_communication;
      CHECK(exposed <= report.channels[0].use.busy);
      // All of the waiting but for what lies between two operations.
      CHECK(exposed.seconds().value > 0.5 * waited.seconds().value);
      CHECK(waited > Time(0));
    }
}

TEST_CASE(
    "a launch that fails on its way leaves its pinned memory to those that come after the run") {
  constexpr std::int64_t elements = 5000;
  std::set<void*> taken;
  cuda::CudaOptions options = on_the_double();
  options.launcher = [&taken](int, std::function<void(std::exception_ptr)> failed) {
    const auto fail_second = [&taken](CUstream_st* stream, void* to, const void* from,
                                      std::size_t bytes) {
      taken.insert(to);
      if (taken.size() == 2) throw Error(Category::unavailable, "no copy");
      copy_by_kernel(stream, to, from, bytes);
    };
    return cuda::make_staged_launcher(cpu_bodies(), std::move(failed), fail_second);
  };
  const auto error = error_of([&] {
    run_on_double(
        options_for(Axis::replicate, 1),
        [](Rank& rank) {
          Stream& compute = rank.stream("compute");
          const Tensor x = make(rank, compute, elements), y = make(rank, compute, elements);
          compute.launch(rank.prepare(Kernel::linear_combination(elements, 1, 1, Dtype::fp32)),
                         {x, y});
        },
        options);
  });
  REQUIRE(error);
  CHECK(error->message() == "no copy");
  for (int i = 0; i < 2; ++i) CHECK(taken.contains(cuda::take_pinned(elements * sizeof(float))));
}

TEST_CASE("a device that had nothing to do for longer than patience is not taken for stuck") {
  // A clock that a program sets, and which counts how often it is looked at.
  struct Set {
    std::atomic<int> seconds{0}, looks{0};
  };
  const auto set = std::make_shared<Set>();
  cuda::CudaOptions options = on_the_double();
  options.patience = Seconds(600);
  options.clock = [set] {
    ++set->looks;
    return Seconds(set->seconds.load());
  };
  run_on_double(
      options_for(Axis::replicate, 1),
      [&](Rank& rank) {
        Stream& compute = rank.stream("compute");
        compute.launch(action(rank, [] {}));
        rank.wait(compute.record());
        set->seconds += 1000;
        compute.launch(action(rank, [&] {  // until the watcher has seen it on its way, twice
          for (const int before = set->looks; set->looks < before + 3;) std::this_thread::yield();
        }));
        rank.wait(compute.record());
      },
      options);
}

TEST_CASE("a run on GPUs that fail ends by an error, and taking it apart throws nothing") {
  const auto error = error_of([] {
    run_on_double(options_for(Axis::replicate, 2), [](Rank& rank) {
      Stream& compute = rank.stream("compute");
      Channel& channel = rank.channel(Axis::replicate, "gradients");
      rank.wait(compute.all_reduce(make(rank, compute, 8), Reduce::sum, channel));
      if (rank.id() == 1) return;
      cuda_double::set_gpus(0);  // no thread can turn to another GPU any more
      compute.launch(action(rank, [] {}));
      rank.wait(compute.record());
    });
  });
  cuda_double::set_gpus(8);
  REQUIRE(error);
  CHECK(error->category() == Category::unavailable);
  CHECK(mentions(*error, {"cudaSetDevice", "invalid device ordinal"}));
}

TEST_CASE("no rank on a GPU goes on behind its first operation before all members came to theirs") {
  std::promise<void> about_to;
  std::atomic<bool> came{false};
  run_on_double(
      options_for(Axis::replicate, 2),
      [&](Rank& rank) {
        Stream& comm = rank.stream("comm");
        Channel& channel = rank.channel(Axis::replicate, "gradients");
        const Tensor x = make(rank, comm, 8);
        if (rank.id() == 0) {
          about_to.set_value();
        } else {
          about_to.get_future().wait();
          work();
          came = true;
        }
        comm.all_reduce(x, Reduce::sum, channel);
        CHECK(came);
        rank.wait(comm.record());
      },
      on_one_gpu());
}

TEST_CASE("ranks on one GPU are refused where kernels are loaded lazily, or streams share queues") {
  const auto refused = [](const char* variable, const char* value) {
    const cuda::CudaOptions options = on_one_gpu();  // which prepares the environment
    setenv(variable, value, 1);
    const auto error = error_of([&] {
      run_on_double(
          options_for(Axis::replicate, 4),
          [](Rank& rank) {
            for (const char* name : {"compute", "comm", "copies"}) rank.stream(name);
          },
          options);
    });
    REQUIRE(error);
    CHECK(error->category() == Category::unavailable);
    return *error;
  };
  CHECK(mentions(refused("CUDA_MODULE_LOADING", "LAZY"), {"CUDA_MODULE_LOADING=EAGER"}));
  setenv("CUDA_MODULE_LOADING", "EAGER", 1);
  CHECK(mentions(refused("CUDA_DEVICE_MAX_CONNECTIONS", "8"), {"hardware queues, 8", "=32"}));
}

TEST_CASE("a user's settings of CUDA stand, and others are made for ranks on one GPU") {
  unsetenv("CUDA_DEVICE_MAX_CONNECTIONS");
  CHECK(cuda::hardware_queues() == 8);
  cuda::prepare_environment();
  CHECK(cuda::hardware_queues() == 32);
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1", 1);
  cuda::prepare_environment();
  CHECK(cuda::hardware_queues() == 1);
}

TEST_CASE("waiting for a rank of another process is no deadlock while that runs") {
  OtherProcess other;
  std::thread answers([&] {
    other.await_question();
    work();  // meanwhile nothing runs here
    other.say(42);
    other.end();
  });
  std::int64_t said = 0;
  run_on_double(
      options_for(Axis::replicate, 2),
      [&](Rank& rank) {
        rank.control_send(1, 5, {});
        said = rank.control_receive(5, 1)->values[0];
      },
      beside(other));
  answers.join();
  CHECK(said == 42);
}

TEST_CASE("waiting for a rank of another process that has ended is a deadlock") {
  OtherProcess other;
  std::thread ends([&] {
    other.await_question();
    other.end();
  });
  const auto error = error_of([&] {
    run_on_double(
        options_for(Axis::replicate, 2),
        [&](Rank& rank) {
          rank.control_send(1, 5, {});
          rank.control_receive(5, 1);
        },
        beside(other));
  });
  ends.join();
  REQUIRE(error);
  CHECK(error->category() == Category::deadlock);
}

}  // namespace orrery
