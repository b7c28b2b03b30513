#include "calibration/kernel_bench.hpp"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>

#include "backend/core/error.hpp"
#include "backend/cpu/bodies.hpp"
#include "calibration/kernel_samples.hpp"
#include "calibration/monotonic.hpp"

namespace orrery {

namespace {

constexpr std::size_t cache_line = 64;
constexpr std::size_t arena_bytes = std::size_t{32} << 20;
constexpr std::size_t most_operand_places = 16;
constexpr int most_calls_of_round = 4000;

// Memory that grows and is kept.
class Buffer {
 public:
  std::byte* take(std::size_t bytes) {
    if (bytes > size_) {
      data_.reset(static_cast<std::byte*>(std::aligned_alloc(cache_line, bytes)));
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = bytes;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

// Positive numbers of ordinary size: no kernel makes denormal numbers of them, which are slow.
const std::vector<float>& pattern() {
  static const std::vector<float> numbers = [] {
    std::vector<float> fresh(std::size_t{1} << 16);
    for (std::size_t i = 0; i < fresh.size(); ++i)
      fresh[i] = 0.25F + static_cast<float>(static_cast<std::uint32_t>(i) * 2654435761U >> 28) / 32;
    return fresh;
  }();
  return numbers;
}

// The operands of one kernel in a thread's memory, at several places.
class Arena {
 public:
  void lay_out(const Kernel& kernel) {
    const auto operands = operands_of(kernel);
    std::size_t bytes = 0;
    for (const auto& [elements, dtype] : operands) bytes += rounded(elements, dtype);
    places_ =
        std::clamp<std::size_t>(arena_bytes / std::max(bytes, cache_line), 1, most_operand_places);
    count_ = operands.size();
    views_.clear();
    std::byte* at = buffer_.take(std::max(bytes * places_, arena_bytes));
    for (std::size_t place = 0; place < places_; ++place)
      for (const auto& [elements, dtype] : operands) {
        views_.push_back({elements > 0 ? at : nullptr, elements, dtype});
        fill(views_.back());
        at += rounded(elements, dtype);
      }
  }
  std::span<const View> operands(std::size_t call) const {
    return {views_.data() + call % places_ * count_, count_};
  }

 private:
  static std::size_t rounded(std::int64_t elements, Dtype dtype) {
    const auto bytes = static_cast<std::size_t>(bytes_of(elements, dtype).value);
    return (bytes + cache_line - 1) / cache_line * cache_line;
  }
  // Tokens are such as every vocabulary measured has; what counts steps or samples is one.
  static void fill(const View& view) {
    const auto elements = static_cast<std::size_t>(view.elements);
    for (std::size_t i = 0; i < elements; ++i) {
      if (view.dtype == Dtype::fp32) {
        const std::size_t length = std::min(pattern().size(), elements - i);
        std::memcpy(static_cast<float*>(view.data) + i, pattern().data(), length * sizeof(float));
        i += length - 1;
      } else if (view.dtype == Dtype::int32) {
        static_cast<std::int32_t*>(view.data)[i] =
            static_cast<std::int32_t>(static_cast<std::uint32_t>(i) * 2654435761U >> 28);
      } else if (view.dtype == Dtype::int64) {
        static_cast<std::int64_t*>(view.data)[i] = 1;
      } else {
        static_cast<double*>(view.data)[i] = 1;
      }
    }
  }

  Buffer buffer_;
  std::size_t places_ = 1, count_ = 0;
  std::vector<View> views_;
};

// What a thread has taken: of the clock on the wall, and of a core.
struct Taken {
  double wall = 0, core = 0;
  static Taken until_now() {
    timespec own{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &own);
    return {seconds_since({}),
            static_cast<double>(own.tv_sec) + 1e-9 * static_cast<double>(own.tv_nsec)};
  }
  Taken operator-(const Taken& o) const { return {wall - o.wall, core - o.core}; }
};

// Runs all points once on `busy` threads: in lockstep, or where they are more than the cores, each
// on its own. Some then wait while others run, seldom within a point and long: a point takes its
// time on a core, times what the thread's whole round took over its time on a core.
class Round {
 public:
  Round(const std::vector<KernelPoint>& points, std::vector<Arena>& arenas, int busy,
        const std::vector<std::size_t>& order, const std::vector<int>& calls, bool first)
      : points_(points),
        arenas_(arenas),
        busy_(busy),
        order_(order),
        calls_(calls),
        first_(first),
        share_cores_(busy > static_cast<int>(std::thread::hardware_concurrency())),
        sums_(points.size()) {}

  // Mean seconds of a call over the threads, by point. `done` is told how many points are over.
  std::vector<double> run(const std::function<void(std::size_t)>& done) {
    std::barrier meet(busy_);
    std::vector<std::thread> threads;
    for (int thread = 1; thread < busy_; ++thread)
      threads.emplace_back([this, thread, &meet] { work(thread, meet, {}); });
    work(0, meet, done);
    for (std::thread& thread : threads) thread.join();
    if (failure_) std::rethrow_exception(failure_);
    for (double& sum : sums_) sum /= busy_;
    return std::move(sums_);
  }

 private:
  void work(int thread, std::barrier<>& meet, const std::function<void(std::size_t)>& done) {
    std::vector<double> own(points_.size());
    const Taken start = Taken::until_now();
    for (std::size_t i = 0; i < order_.size(); ++i) {
      const std::size_t point = order_[i];
      try {
        const Taken taken = measure(arenas_[static_cast<std::size_t>(thread)],
                                    points_[point].kernel, calls_[point], meet);
        own[point] = (share_cores_ ? taken.core : taken.wall) / calls_[point];
      } catch (...) {
        const std::lock_guard lock(mutex_);
        failure_ = std::current_exception();
        meet.arrive_and_drop();
        return;
      }
      if (done) done(i + 1);
    }
    const Taken all = Taken::until_now() - start;
    const std::lock_guard lock(mutex_);
    for (std::size_t point = 0; point < own.size(); ++point)
      sums_[point] += own[point] * (share_cores_ ? all.wall / all.core : 1);
  }

  Taken measure(Arena& arena, const Kernel& kernel, int calls, std::barrier<>& meet) const {
    const KernelBodies& bodies = cpu_bodies();
    arena.lay_out(kernel);
    if (first_ || calls > 1) bodies.run(kernel, arena.operands(0));
    if (!share_cores_) meet.arrive_and_wait();
    const Taken start = Taken::until_now();
    for (int call = 0; call < calls; ++call)
      bodies.run(kernel, arena.operands(static_cast<std::size_t>(call) + 1));
    return Taken::until_now() - start;
  }

  const std::vector<KernelPoint>& points_;
  std::vector<Arena>& arenas_;
  const int busy_;
  const std::vector<std::size_t>& order_;
  const std::vector<int>& calls_;
  const bool first_;  // kernels are met for the first time: a call before the one that counts
  std::mutex mutex_;
  const bool share_cores_;
  std::vector<double> sums_;
  std::exception_ptr failure_;
};

}  // namespace

std::vector<KernelSamples> measure_kernels(const std::vector<KernelPoint>& points,
                                           const KernelBenchOptions& options) {
  const std::size_t count = points.size();
  std::vector<KernelSamples> samples;
  for (const int busy : options.busy)
    for (const KernelPoint& point : points) samples.push_back(samples_of(point, busy));
  std::vector<Arena> arenas(
      static_cast<std::size_t>(*std::max_element(options.busy.begin(), options.busy.end())));
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::vector<int> calls(count, 1);
  std::mt19937 shuffle(1);
  const auto run = [&](int busy, int round, double from, double share) {
    return Round(points, arenas, busy, order, calls, round == 0).run([&](std::size_t done) {
      options.progress(round,
                       from + share * static_cast<double>(done) / static_cast<double>(count));
    });
  };
  const Monotonic::time_point start = Monotonic::now();
  // How often a kernel must be called is learnt from a call of each, its second.
  const std::vector<double> once = run(1, 0, 0, 1);
  for (std::size_t i = 0; i < count; ++i)
    calls[i] = std::clamp(static_cast<int>(std::ceil(options.shortest_s / once[i])), 1,
                          most_calls_of_round);
  const Monotonic::time_point first_round = Monotonic::now();
  const int least = std::min(2, options.max_rounds);
  for (int round = 1; round <= options.max_rounds; ++round) {
    const double each_round = seconds_since(first_round) / std::max(round - 1, 1);
    if (round > least && seconds_since(start) + each_round > options.budget_s) break;
    for (std::size_t b = 0; b < options.busy.size(); ++b) {
      std::shuffle(order.begin(), order.end(), shuffle);
      const double share = 1.0 / static_cast<double>(options.busy.size());
      const auto each = run(options.busy[b], round, share * static_cast<double>(b), share);
      for (std::size_t i = 0; i < count; ++i)
        samples[b * count + i].seconds.push_back(each[i] * share_at_place(points[i].kernel));
    }
  }
  return samples;
}

}  // namespace orrery
