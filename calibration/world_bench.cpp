#include "calibration/world_bench.hpp"

#include <algorithm>

#include "backend/cpu/bodies.hpp"
#include "backend/cpu/world.hpp"
#include "backend/rank.hpp"
#include "calibration/collective_points.hpp"

namespace orrery {

namespace {

WorldOptions world_of(int ranks) {
  WorldOptions options;
  options.grid.set(Axis::replicate, ranks);
  options.real_values = true;
  options.bodies = &cpu_bodies();
  return options;
}

// One rank's part in timing the points of one group, from the compute stream and back.
class CollectiveBench {
 public:
  CollectiveBench(Rank& rank, int members, std::int64_t largest)
      : rank_(rank),
        compute_(rank.stream("compute")),
        communication_(rank.stream("communication")),
        sending_(rank.stream("edge")),
        operands_(rank, members, largest, communication_, sending_) {}

  // Mean seconds of `calls` calls, the program's issuing beside them.
  double time(const CollectivePoint& point, int calls) {
    issue(point);  // all members have come
    rank_.wait(compute_.record());
    const Seconds start = rank_.now();
    for (int call = 0; call < calls; ++call) issue(point);
    rank_.wait(compute_.record());
    return (rank_.now() - start).value / calls;
  }

 private:
  void issue(const CollectivePoint& point) {
    Stream& stream = point.operation == Collective::send ? sending_ : communication_;
    stream.after(compute_.record());
    operands_.issue(point);
    compute_.after(stream.record());
  }

  Rank& rank_;
  Stream &compute_, &communication_, &sending_;
  CollectiveOperands operands_;
};

std::vector<CollectivePoint> points_of(int members, bool quick) {
  if (quick) return collective_points(members, {0, 64, 4096}, {512});
  return collective_points(
      members, {0, 256, 1024, 4096, 16384, 64 * 1024, 256 * 1024, 1024 * 1024, 4096 * 1024},
      {2048, 32768, 512 * 1024});
}

void measure_group(int members, bool quick, const std::function<void(double)>& progress,
                   std::vector<CollectiveSamples>& samples) {
  const std::vector<CollectivePoint> points = points_of(members, quick);
  std::int64_t largest = 0;
  for (const CollectivePoint& point : points) largest = std::max(largest, point.elements);
  const int rounds = quick ? 2 : 7;
  std::vector<std::vector<double>> times(points.size());
  make_cpu_world(world_of(members))->run([&](Rank& rank) {
    CollectiveBench bench(rank, members, largest);
    for (int round = 0; round < rounds; ++round)
      for (std::size_t i = 0; i < points.size(); ++i) {
        const int calls = points[i].elements > 200'000 ? 2 : points[i].elements > 10'000 ? 8 : 32;
        const double each = bench.time(points[i], calls);
        if (rank.id() != 0) continue;
        times[i].push_back(each);
        progress((round + static_cast<double>(i) / static_cast<double>(points.size())) / rounds);
      }
  });
  for (std::size_t i = 0; i < points.size(); ++i)
    samples.push_back({points[i].operation, members, bytes_of(points[i].elements, Dtype::fp32),
                       points[i].held_back, times[i]});
}

// Mean seconds of `calls` runs of `each`.
template <class Each>
double mean_time(Rank& rank, int calls, const Each& each) {
  const Seconds start = rank.now();
  for (int i = 0; i < calls; ++i) each();
  return (rank.now() - start).value / calls;
}

void measure_host_of(Rank& rank, int ranks, int rounds, HostSamples& samples) {
  constexpr int calls = 200;
  Stream& compute = rank.stream("compute");
  Stream& communication = rank.stream("communication");
  Channel* channel = ranks > 1 ? &rank.channel(Axis::replicate, "calibration") : nullptr;
  const Tensor one = rank.allocate(compute, Label::workspace, 1, Dtype::fp32);
  const Tensor shared = rank.allocate(communication, Label::communication, 1, Dtype::fp32);
  const Prepared fill = rank.prepare(Kernel::fill(1, 0, Dtype::fp32));
  communication.launch(fill, {shared});
  const auto keep = [&rank](std::vector<double>& into, double value) {
    if (rank.id() == 0) into.push_back(value);
  };
  for (int round = 0; round < rounds; ++round) {
    const Seconds start = rank.now();
    keep(samples.launch, mean_time(rank, calls, [&] { compute.launch(fill, {one}); }));
    rank.wait(compute.record());
    keep(samples.operation, (rank.now() - start).value / calls);
    const double wait = mean_time(rank, calls, [&] {
      compute.launch(fill, {one});
      rank.wait(compute.record());
    });
    if (rank.id() == 0) samples.wait.push_back(std::max(wait - samples.launch.back(), 1e-9));
    if (channel == nullptr) continue;
    keep(samples.communicate,
         mean_time(rank, calls, [&] { communication.all_reduce(shared, Reduce::sum, *channel); }));
    rank.wait(communication.record());
    if (rank.id() > 1) continue;
    const int other = 1 - rank.id();
    keep(samples.control, 0.5 * mean_time(rank, calls, [&] {
                            if (rank.id() == 0) rank.control_send(other, Tag{1}, {1});
                            rank.control_receive(Tag{1}, other);
                            if (rank.id() == 1) rank.control_send(other, Tag{1}, {1});
                          }));
  }
}

}  // namespace

void measure_host(World& world, int ranks, bool quick, HostSamples& samples) {
  world.run([&](Rank& rank) { measure_host_of(rank, ranks, quick ? 2 : 9, samples); });
}

void measure_world(const WorldBenchOptions& options, Measurements& measurements) {
  measure_host(*make_cpu_world(world_of(options.ranks)), options.ranks, options.quick,
               measurements.host);
  const std::vector<int> groups = groups_up_to(options.ranks);
  double done = 0;
  for (const int members : groups) {
    measure_group(
        members, options.quick,
        [&](double share) {
          options.progress((done + share) / static_cast<double>(groups.size()));
        },
        measurements.collectives);
    done += 1;
  }
}

}  // namespace orrery
