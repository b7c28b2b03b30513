#include "calibration/device_bench.hpp"

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

constexpr int most_calls = 32;  // that a host issues while a device is kept busy

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

// Seconds of the stretches of a rank: that its compute stream worked or communicated.
std::vector<double> stretches_of(const RankReport& report) {
  const auto spent = [](const TimeParts& parts) {
    return (parts.compute + parts.exposed_communication + parts.bubble).seconds().value;
  };
  std::vector<double> seconds;
  for (std::size_t i = 0; i + 1 < report.steps.size(); i += 2)
    seconds.push_back(spent(report.steps[i + 1].parts) - spent(report.steps[i].parts));
  return seconds;
}

// Which points are measured, in which order, with how many calls each.
struct Plan {
  std::vector<std::size_t> order;
  std::vector<int> calls;  // by point
};

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

void run_plan(Rank& rank, const std::vector<KernelPoint>& points, const Plan& plan,
              const DeviceBenchOptions& options, const std::function<void(std::size_t)>& done) {
  Stream& compute = rank.stream("compute");
  Stretches stretches(compute);
  const std::int64_t filled = options.memory.value / size_of(Dtype::fp32);
  const Tensor busy = rank.allocate(compute, Label::workspace, filled, Dtype::fp32);
  const Prepared keep_busy = rank.prepare(Kernel::fill(filled, 0, Dtype::fp32));
  for (std::size_t i = 0; i < plan.order.size(); ++i) {
    const std::size_t point = plan.order[i];
    const PlacedOperands operands(rank, compute, points[point].kernel, options.memory);
    // The first call may load or choose something.
    compute.launch(repeated(rank, operands, point, 1), operands.bound());
    const Sequence& sequence = repeated(rank, operands, point, plan.calls[point]);
    compute.launch(keep_busy, {busy});
    stretches.time([&] { compute.launch(sequence, operands.bound()); });
    rank.wait(compute.record());
    done(i + 1);
  }
}

// Seconds of each measurement of a plan.
std::vector<double> measure(const std::vector<KernelPoint>& points, const Plan& plan,
                            const DeviceBenchOptions& options, const std::string& what) {
  const RunReport report = options.run(1, [&](Rank& rank) {
    run_plan(rank, points, plan, options, [&](std::size_t done) {
      options.progress(what, static_cast<double>(done) / static_cast<double>(plan.order.size()));
    });
  });
  return stretches_of(report.ranks[0]);
}

}  // namespace

std::vector<KernelSamples> measure_device_kernels(const std::vector<KernelPoint>& points,
                                                  const DeviceBenchOptions& options) {
  std::vector<std::size_t> order(points.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const std::vector<double> once =
      measure(points, {order, std::vector<int>(points.size(), 1)}, options, "kernels, first look");
  Plan plan;
  double round_s = 0;
  for (const double seconds : once) {
    const double wanted = std::ceil(options.shortest_s / std::max(seconds, 1e-9));
    plan.calls.push_back(static_cast<int>(std::clamp(wanted, 1.0, 1.0 * most_calls)));
    round_s += seconds * plan.calls.back();
  }
  const int rounds = std::clamp(static_cast<int>(std::min(options.budget_s / round_s, 1e6)), 2,
                                std::max(2, options.max_rounds));
  std::mt19937 shuffle(1);
  for (int round = 0; round < rounds; ++round) {
    std::shuffle(order.begin(), order.end(), shuffle);
    plan.order.insert(plan.order.end(), order.begin(), order.end());
  }
  const std::vector<double> seconds = measure(points, plan, options, "kernels");
  std::vector<KernelSamples> samples;
  for (const KernelPoint& point : points) samples.push_back(samples_of(point, 1));
  for (std::size_t i = 0; i < seconds.size(); ++i) {
    const std::size_t point = plan.order[i];
    samples[point].seconds.push_back(seconds[i] / plan.calls[point] *
                                     share_at_place(points[point].kernel));
  }
  return samples;
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
    compute.launch(fill, {device});
    compute.copy(device, host);
    for (int round = 0; round < rounds; ++round)
      for (const CopySamples& point : samples) {
        const std::int64_t n = point.size.value / size_of(Dtype::fp32);
        const Tensor from = (point.to_device ? host : device).slice(0, n),
                     to = (point.to_device ? device : host).slice(0, n);
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
    return point.elements > (1 << 24) ? 3 : point.elements > (1 << 19) ? 10 : 30;
  };
  const int rounds = options.quick ? 2 : 5;
  const RunReport report = options.run(members, [&](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Stretches stretches(compute);
    CollectiveOperands operands(rank, members, largest, compute, compute);
    for (int round = 0; round < rounds; ++round)
      for (const CollectivePoint& point : points) {
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

enum class Beside : std::uint8_t { nothing, copies, reductions };

// Seconds of several equal GEMMs, by round, while `count` operations run on another stream; or of
// one of these operations.
struct InterferenceBench {
  const DeviceBenchOptions& options;
  Kernel gemm;
  int gemms, rounds;

  std::vector<double> gemms_beside(Beside beside, int count) const {
    return run([&](Rank& rank, Stretches& stretches, const PlacedOperands& operands) {
      Stream &compute = rank.stream("compute"), &other = rank.stream("beside");
      const Buffers buffers(rank, other, options.memory);
      other.after(compute.record());
      for (int i = 0; i < count; ++i) buffers.issue(other, beside);
      const Sequence& sequence = repeated(rank, operands, 0, gemms);
      stretches.time([&] { compute.launch(sequence, operands.bound()); });
      compute.after(other.record());
    });
  }
  double one(Beside beside) const {
    return median(run([&](Rank& rank, Stretches& stretches, const PlacedOperands&) {
      Stream& compute = rank.stream("compute");
      const Buffers buffers(rank, compute, options.memory);
      stretches.time([&] { buffers.issue(compute, beside); });
    }));
  }

 private:
  struct Buffers {
    Tensor from, to;
    Prepared add;
    Buffers(Rank& rank, Stream& stream, Bytes memory) {
      const std::int64_t n = memory.value / size_of(Dtype::fp32) / 4;
      for (Tensor* tensor : {&from, &to}) {
        *tensor = rank.allocate(stream, Label::workspace, n, Dtype::fp32);
        stream.launch(rank.prepare(Kernel::fill(n, 1, Dtype::fp32)), {*tensor});
      }
      add = rank.prepare(Kernel::linear_combination(n, 0.5, 0.5, Dtype::fp32));
    }
    void issue(Stream& stream, Beside beside) const {
      if (beside == Beside::copies) stream.copy(from, to);
      if (beside == Beside::reductions) stream.launch(add, {from, to});
    }
  };

  template <class Body>
  std::vector<double> run(const Body& body) const {
    const RunReport report = options.run(1, [&](Rank& rank) {
      Stream& compute = rank.stream("compute");
      Stretches stretches(compute);
      const PlacedOperands operands(rank, compute, gemm, options.memory);
      compute.launch(repeated(rank, operands, 0, 1), operands.bound());
      for (int round = 0; round < rounds; ++round) {
        body(rank, stretches, operands);
        rank.wait(compute.record());
      }
    });
    return stretches_of(report.ranks[0]);
  }
};

}  // namespace

std::vector<InterferenceSamples> measure_interference(const DeviceBenchOptions& options) {
  const std::int64_t size = options.quick ? 32 : 8192;
  const InterferenceBench bench{options, Kernel::gemm(size, size, size, Dtype::bf16),
                                options.quick ? 2 : 10, options.quick ? 2 : 5};
  options.progress("interference", 0);
  const std::vector<double> alone = bench.gemms_beside(Beside::nothing, 0);
  std::vector<InterferenceSamples> samples;
  for (const Beside beside : {Beside::copies, Beside::reductions}) {
    const double enough = std::ceil(3 * median(alone) / std::max(bench.one(beside), 1e-9));
    const int count = static_cast<int>(std::clamp(enough, 1.0, 400.0));
    samples.push_back({samples_of({bench.gemm}, 1).kernels,
                       beside == Beside::copies ? "copy" : "reduction", alone,
                       bench.gemms_beside(beside, count)});
  }
  return samples;
}

}  // namespace orrery
