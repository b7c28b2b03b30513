#include "calibration/device_bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "backend/rank.hpp"
#include "calibration/collective_points.hpp"
#include "calibration/device_operands.hpp"
#include "calibration/fit.hpp"
#include "calibration/kernel_samples.hpp"

namespace orrery {

namespace {

// That a host issues while a device is kept busy: 16 take it a fifth of a millisecond at most.
constexpr int most_calls = 16;
constexpr int least_rounds = 2;
constexpr double long_s = 0.1;  // what takes longer than that is not measured more often

// Work that is over only when the host has issued what is timed behind it.
class KeepBusy {
 public:
  KeepBusy(Rank& rank, Stream& compute, Bytes memory)
      : compute_(compute),
        filled_(memory.value / size_of(Dtype::fp32)),
        tensor_(rank.allocate(compute, Label::workspace, filled_, Dtype::fp32)),
        fill_(rank.prepare(Kernel::fill(filled_, 0, Dtype::fp32))) {}
  void operator()() const { compute_.launch(fill_, {tensor_}); }

 private:
  Stream& compute_;
  const std::int64_t filled_;
  const Tensor tensor_;
  const Prepared fill_;
};

// What is timed on a compute stream, in the order of its issue.
class Stretches {
 public:
  explicit Stretches(Stream& compute) : compute_(compute) {}
  template <class Work>
  void time(const Work& work) {
    compute_.mark_step(marks_++);
    work();
    compute_.mark_step(marks_++);
  }

 private:
  Stream& compute_;
  std::int64_t marks_ = 0;
};

// Seconds of the stretches of a rank: that its compute stream worked or communicated; or all of
// them, with what lies between operations.
std::vector<double> stretches_of(const RankReport& report, bool whole = false) {
  const auto spent = [whole](const TimeParts& parts) {
    const Time busy = parts.compute + parts.exposed_communication + parts.bubble;
    return (whole ? parts.total() : busy).seconds().value;
  };
  std::vector<double> seconds;
  for (std::size_t i = 0; i + 1 < report.steps.size(); i += 2)
    seconds.push_back(spent(report.steps[i + 1].parts) - spent(report.steps[i].parts));
  return seconds;
}

// Several calls of a kernel as one operation.
const Sequence& repeated(Rank& rank, const PlacedOperands& operands, std::size_t point, int calls) {
  return rank.sequence("calibration " + std::to_string(point) + " x " + std::to_string(calls),
                       [&](Sequence& sequence) {
                         operands.declare(sequence);
                         const Prepared prepared = rank.prepare(operands.kernel());
                         for (int call = 0; call < calls; ++call)
                           sequence.add(prepared, operands.views(call + 1));
                       });
}

// One rank's measurements of all points. What each measurement was of, and of how many calls, it
// reports as the loss of a step, for want of another number: see `calls_and_point`.
class KernelBench {
 public:
  KernelBench(Rank& rank, const std::vector<KernelPoint>& points, const DeviceBenchOptions& options)
      : rank_(rank),
        points_(points),
        options_(options),
        compute_(rank.stream("compute")),
        stretches_(compute_),
        fill_(rank, compute_, options.memory),
        memory_(rank, compute_, with_product(points, options), options.memory),
        product_(memory_, product_of(options)),
        start_(rank.now()) {}

  void run() {
    for (std::size_t point = 0; point < points_.size(); ++point) {
      look(point);
      progress("kernels, first look", point + 1);
    }
    std::vector<std::size_t> order(points_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::mt19937 shuffle(1);
    for (int round = 0; round < std::max(least_rounds, options_.max_rounds); ++round) {
      std::shuffle(order.begin(), order.end(), shuffle);
      for (std::size_t i = 0; i < order.size(); ++i) {
        const bool must = round < least_rounds;
        if (!must && (rank_.now() - start_).value > options_.budget_s) return;
        if (must || seconds_[order[i]] < long_s) measure(order[i]);
        progress("kernels, round " + std::to_string(round + 1), i + 1);
      }
    }
  }

 private:
  static Kernel product_of(const DeviceBenchOptions& options) {
    const std::int64_t side = options.quick ? 32 : 8192;
    return Kernel::gemm(side, side, side, Dtype::bf16);
  }
  static std::vector<KernelPoint> with_product(std::vector<KernelPoint> points,
                                               const DeviceBenchOptions& options) {
    points.push_back({product_of(options)});
    return points;
  }

  // Mostly a large product, then some traffic: a device that is held back by its power has the
  // clock that a training step leaves it, not that of a device at rest.
  void keep_busy() {
    compute_.launch(repeated(rank_, product_, points_.size(), 1), product_.bound());
    fill_();
  }
  // The first call may load or choose something; the second, as the host sees it, is at most as
  // much shorter than it seems as waiting takes.
  void look(std::size_t point) {
    const PlacedOperands operands(memory_, points_[point].kernel);
    const Sequence& once = repeated(rank_, operands, point, 1);
    compute_.launch(once, operands.bound());
    rank_.wait(compute_.record());
    const Seconds from = rank_.now();
    compute_.launch(once, operands.bound());
    rank_.wait(compute_.record());
    seconds_.push_back(std::max((rank_.now() - from).value, 1e-9));
    const double wanted = std::ceil(options_.shortest_s / seconds_.back());
    calls_.push_back(static_cast<int>(std::clamp(wanted, 1.0, 1.0 * most_calls)));
  }
  void measure(std::size_t point) {
    const PlacedOperands operands(memory_, points_[point].kernel);
    const Sequence& sequence = repeated(rank_, operands, point, calls_[point]);
    keep_busy();
    stretches_.time([&] { compute_.launch(sequence, operands.bound()); });
    rank_.wait(compute_.record());
    rank_.record_loss(measured_++, static_cast<double>(point * (most_calls + 1)) + calls_[point]);
  }
  void progress(const std::string& what, std::size_t done) const {
    options_.progress(what, static_cast<double>(done) / static_cast<double>(points_.size()));
  }

  Rank& rank_;
  const std::vector<KernelPoint>& points_;
  const DeviceBenchOptions& options_;
  Stream& compute_;
  Stretches stretches_;
  const KeepBusy fill_;
  const OperandMemory memory_;
  const PlacedOperands product_;
  const Seconds start_;
  std::vector<double> seconds_;  // of a call, by point
  std::vector<int> calls_;       // by point
  std::int64_t measured_ = 0;
};

struct CallsAndPoint {
  int calls = 0;
  std::size_t point = 0;
};
CallsAndPoint calls_and_point(double reported) {
  const auto number = static_cast<std::size_t>(reported);
  return {static_cast<int>(number % (most_calls + 1)), number / (most_calls + 1)};
}

}  // namespace

std::vector<KernelSamples> measure_device_kernels(const std::vector<KernelPoint>& points,
                                                  const DeviceBenchOptions& options) {
  const RunReport report =
      options.run(1, [&](Rank& rank) { KernelBench(rank, points, options).run(); });
  const std::vector<double> seconds = stretches_of(report.ranks[0]);
  std::vector<KernelSamples> samples;
  for (const KernelPoint& point : points) samples.push_back(samples_of(point, 1));
  for (const auto& [measurement, reported] : report.ranks[0].losses) {
    const auto [calls, point] = calls_and_point(reported);
    samples[point].seconds.push_back(seconds[static_cast<std::size_t>(measurement)] / calls *
                                     share_at_place(points[point].kernel));
  }
  return samples;
}

namespace {

// Many kernels of one element as one operation, and one by one, by round; and what issuing that
// operation cost the host, which it reports as a loss for want of another number.
RunReport run_least_kernels(const RunRanks& run, const DeviceBenchOptions& options, int rounds) {
  return run(1, [&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Stretches stretches(compute);
    const KeepBusy busy(rank, compute, options.memory);
    const Tensor one = rank.allocate(compute, Label::workspace, 1, Dtype::fp32);
    const Prepared fill = rank.prepare(Kernel::fill(1, 0, Dtype::fp32));
    const Sequence& many = rank.sequence("calibration least kernels", [&](Sequence& sequence) {
      const int slot = sequence.slot("one");
      for (int call = 0; call < most_calls; ++call) sequence.add(fill, {{slot, 0, 1}});
    });
    for (int i = 0; i < 2; ++i) compute.launch(many, {one});  // a graph is made of the second
    for (int round = 0; round < rounds; ++round) {
      busy();
      stretches.time([&] {
        const Seconds from = rank.now();
        compute.launch(many, {one});
        rank.record_loss(round, (rank.now() - from).value);
      });
      stretches.time([&] {
        for (int call = 0; call < most_calls; ++call) compute.launch(fill, {one});
      });
      rank.wait(compute.record());
    }
  });
}

}  // namespace

LeastSamples measure_least_kernels(const DeviceBenchOptions& options) {
  const int rounds = options.quick ? 2 : 9;
  LeastSamples least;
  const auto take = [](const RunReport& report, std::vector<double>& kernel,
                       std::vector<double>& issued) {
    const std::vector<double> seconds = stretches_of(report.ranks[0], true);
    for (std::size_t i = 0; i < seconds.size(); i += 2) kernel.push_back(seconds[i] / most_calls);
    for (const auto& [round, cost] : report.ranks[0].losses) issued.push_back(cost);
    return seconds;
  };
  const std::vector<double> seconds =
      take(run_least_kernels(options.run, options, rounds), least.kernel, least.issued);
  for (std::size_t i = 1; i < seconds.size(); i += 2)
    least.operation.push_back(seconds[i] / most_calls);
  if (options.run_as_graphs)
    take(run_least_kernels(options.run_as_graphs, options, rounds), least.graph,
         least.issued_graph);
  return least;
}

std::vector<CopySamples> measure_device_copies(const DeviceBenchOptions& options) {
  std::vector<CopySamples> samples;
  const std::vector<std::int64_t> sizes =
      options.quick ? std::vector<std::int64_t>{1 << 12}
                    : std::vector<std::int64_t>{1 << 16, 1 << 20, 1 << 24, 1 << 28};
  for (const bool to_device : {false, true})
    for (const std::int64_t size : sizes) samples.push_back({to_device, Bytes(size), {}});
  const int rounds = options.quick ? 2 : 5;
  const RunReport report = options.run(1, [&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Stretches stretches(compute);
    const std::int64_t most = sizes.back() / size_of(Dtype::fp32);
    TensorOptions pinned;
    pinned.place = Place::host;
    const Tensor device = rank.allocate(compute, Label::workspace, most, Dtype::fp32),
                 host = rank.allocate(compute, Label::workspace, most, Dtype::fp32, pinned);
    const Prepared fill = rank.prepare(Kernel::fill(most, 0, Dtype::fp32));
    const KeepBusy busy(rank, compute, options.memory);
    compute.launch(fill, {device});
    compute.copy(device, host);
    for (int round = 0; round < rounds; ++round)
      for (const CopySamples& point : samples) {
        const std::int64_t n = point.size.value / size_of(Dtype::fp32);
        const Tensor from = (point.to_device ? host : device).slice(0, n),
                     to = (point.to_device ? device : host).slice(0, n);
        busy();
        stretches.time([&] { compute.copy(from, to); });
        rank.wait(compute.record());
      }
  });
  const std::vector<double> seconds = stretches_of(report.ranks[0]);
  for (std::size_t i = 0; i < seconds.size(); ++i)
    samples[i % samples.size()].seconds.push_back(seconds[i]);
  return samples;
}

namespace {

std::vector<CollectivePoint> points_of_group(int members, bool quick) {
  if (quick) return collective_points(members, {0, 4096}, {512});
  return collective_points(
      members, {0, 1 << 10, 1 << 14, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28},
      {1 << 12, 1 << 19, 1 << 23, 1 << 27});
}

void measure_group(int members, const DeviceBenchOptions& options,
                   std::vector<CollectiveSamples>& samples) {
  const std::vector<CollectivePoint> points = points_of_group(members, options.quick);
  std::int64_t largest = 0;
  for (const CollectivePoint& point : points) largest = std::max(largest, point.elements);
  const auto calls_of = [](const CollectivePoint& point) {
    return point.elements > (1 << 24) ? 3 : point.elements > (1 << 19) ? 8 : most_calls;
  };
  const int rounds = options.quick ? 2 : 5;
  const RunReport report = options.run(members, [&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Stretches stretches(compute);
    const KeepBusy busy(rank, compute, options.memory);
    CollectiveOperands operands(rank, members, largest, compute, compute);
    for (int round = 0; round < rounds; ++round)
      for (const CollectivePoint& point : points) {
        busy();
        operands.issue(point);  // all members have come
        stretches.time([&] {
          for (int call = 0; call < calls_of(point); ++call) operands.issue(point);
        });
        rank.wait(compute.record());
      }
  });
  const std::vector<double> seconds = stretches_of(report.ranks[0]);
  const std::size_t first = samples.size();
  for (const CollectivePoint& point : points)
    samples.push_back(
        {point.operation, members, bytes_of(point.elements, Dtype::fp32), point.held_back, {}});
  for (std::size_t i = 0; i < seconds.size(); ++i)
    samples[first + i % points.size()].seconds.push_back(seconds[i] /
                                                         calls_of(points[i % points.size()]));
}

}  // namespace

std::vector<CollectiveSamples> measure_device_collectives(const DeviceBenchOptions& options) {
  std::vector<CollectiveSamples> samples;
  for (const int members : groups_up_to(options.devices)) {
    options.progress("collectives of " + std::to_string(members), 0);
    measure_group(members, options, samples);
  }
  return samples;
}

namespace {

// What another stream does meanwhile.
enum class Beside : std::uint8_t { nothing, copies, reductions, copies_from_host, copies_to_host };
constexpr const char* name(Beside beside) {
  switch (beside) {
    case Beside::nothing:
      return "";
    case Beside::copies:
      return "copy";
    case Beside::reductions:
      return "reduction";
    case Beside::copies_from_host:
      return "copy from the host";
    case Beside::copies_to_host:
      return "copy to the host";
  }
  return "";
}

// Seconds of several equal kernels, by round, while `count` operations run on another stream; or of
// one of these operations.
struct InterferenceBench {
  const DeviceBenchOptions& options;
  Kernel kernel;
  int calls, rounds;

  std::vector<double> kernels_beside(Beside beside, int count) const {
    return run([&](Rank& rank, Stretches& stretches, const PlacedOperands& operands) {
      Stream &compute = rank.stream("compute"), &other = rank.stream("beside");
      const Buffers buffers(rank, other, options.memory, beside);
      other.after(compute.record());
      for (int i = 0; i < count; ++i) buffers.issue(other, beside);
      const Sequence& sequence = repeated(rank, operands, 0, calls);
      stretches.time([&] { compute.launch(sequence, operands.bound()); });
      compute.after(other.record());
    });
  }
  double one(Beside beside) const {
    return median(run([&](Rank& rank, Stretches& stretches, const PlacedOperands&) {
      Stream& compute = rank.stream("compute");
      const Buffers buffers(rank, compute, options.memory, beside);
      stretches.time([&] { buffers.issue(compute, beside); });
    }));
  }

 private:
  struct Buffers {
    Tensor from, to;
    Prepared add;
    Buffers(Rank& rank, Stream& stream, Bytes memory, Beside beside) {
      const std::int64_t n = memory.value / size_of(Dtype::fp32) / 4;
      TensorOptions pinned;
      pinned.place = Place::host;
      const auto place = [&](Beside host) { return beside == host ? pinned : TensorOptions{}; };
      from =
          rank.allocate(stream, Label::workspace, n, Dtype::fp32, place(Beside::copies_from_host));
      to = rank.allocate(stream, Label::workspace, n, Dtype::fp32, place(Beside::copies_to_host));
      const Prepared fill = rank.prepare(Kernel::fill(n, 1, Dtype::fp32));
      if (beside == Beside::copies_from_host) {
        stream.launch(fill, {to});
        stream.copy(to, from);
      } else {
        stream.launch(fill, {from});
      }
      if (beside == Beside::reductions) {
        stream.launch(fill, {to});
        add = rank.prepare(Kernel::linear_combination(n, 0.5, 0.5, Dtype::fp32));
      }
    }
    void issue(Stream& stream, Beside beside) const {
      if (beside == Beside::reductions)
        stream.launch(add, {from, to});
      else if (beside != Beside::nothing)
        stream.copy(from, to);
    }
  };

  template <class Body>
  std::vector<double> run(const Body& body) const {
    const RunReport report = options.run(1, [&](Rank& rank) {
      Stream& compute = rank.stream("compute");
      Stretches stretches(compute);
      const OperandMemory memory(rank, compute, {{kernel}}, options.memory);
      const PlacedOperands operands(memory, kernel);
      compute.launch(repeated(rank, operands, 0, 1), operands.bound());
      for (int round = 0; round < rounds; ++round) {
        body(rank, stretches, operands);
        rank.wait(compute.record());
      }
    });
    return stretches_of(report.ranks[0]);
  }
};

// "gemm nn bf16, m 8192, n 4096, k 512"
std::string with_sizes(const Kernel& kernel) {
  const KernelSamples samples = samples_of({kernel}, 1);
  std::string text = samples.kernels;
  for (std::size_t i = 0; i < samples.axes.size(); ++i)
    text += fmt::format(", {} {:.0f}", samples.axes[i], samples.at[i]);
  return text;
}

// Bound by products, by both, and by memory.
std::vector<Kernel> kernels_beside_others(bool quick) {
  if (quick) return {Kernel::gemm(32, 32, 32, Dtype::bf16)};
  return {Kernel::gemm(8192, 8192, 8192, Dtype::bf16), Kernel::gemm(8192, 4096, 512, Dtype::bf16),
          Kernel::norm(16384, 4096, Norm::rms, 1e-5, Dtype::bf16)};
}

}  // namespace

std::vector<InterferenceSamples> measure_interference(const DeviceBenchOptions& options) {
  std::vector<InterferenceSamples> samples;
  options.progress("interference", 0);
  for (const Kernel& kernel : kernels_beside_others(options.quick)) {
    const InterferenceBench bench{options, kernel, options.quick ? 2 : 10, options.quick ? 2 : 5};
    const std::vector<double> alone = bench.kernels_beside(Beside::nothing, 0);
    for (const Beside beside :
         {Beside::copies, Beside::reductions, Beside::copies_from_host, Beside::copies_to_host}) {
      const double enough = std::ceil(3 * median(alone) / std::max(bench.one(beside), 1e-9));
      const int count = static_cast<int>(std::clamp(enough, 1.0, 400.0));
      samples.push_back(
          {with_sizes(kernel), name(beside), alone, bench.kernels_beside(beside, count)});
    }
  }
  return samples;
}

}  // namespace orrery
