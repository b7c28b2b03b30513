#include "calibration/world_bench.hpp"

#include <algorithm>
#include <array>
#include <set>

#include "backend/cpu/bodies.hpp"
#include "backend/cpu/world.hpp"
#include "backend/rank.hpp"

namespace orrery {

namespace {

struct CollectivePoint {
  Collective operation;
  std::int64_t elements;  // of the whole buffer
  bool held_back;
};

constexpr std::array operations{Collective::all_reduce,     Collective::all_gather,
                                Collective::reduce_scatter, Collective::broadcast,
                                Collective::all_to_all,     Collective::send,
                                Collective::exchange};

WorldOptions world_of(int ranks) {
  WorldOptions options;
  options.grid.set(Axis::replicate, ranks);
  options.real_values = true;
  options.bodies = &cpu_bodies();
  return options;
}

// Buffers divide among the members, so the least has one element of each.
std::vector<CollectivePoint> collective_points(int members, bool quick) {
  const std::vector<std::int64_t> kept =
      quick ? std::vector<std::int64_t>{0, 64, 4096}
            : std::vector<std::int64_t>{0,         256,        1024,        4096,       16384,
                                        64 * 1024, 256 * 1024, 1024 * 1024, 4096 * 1024};
  const std::vector<std::int64_t> held =
      quick ? std::vector<std::int64_t>{512} : std::vector<std::int64_t>{2048, 32768, 512 * 1024};
  std::vector<CollectivePoint> points;
  const auto add = [&](Collective operation, std::int64_t elements, bool held_back) {
    points.push_back({operation, elements / members * members, held_back});
  };
  for (const Collective operation : operations) {
    for (const std::int64_t elements : kept)
      add(operation, elements == 0 ? members : elements, false);
    for (const std::int64_t elements : held) add(operation, elements, true);
  }
  return points;
}

// One rank's part in timing the points of one group.
class CollectiveBench {
 public:
  CollectiveBench(Rank& rank, int members, std::int64_t largest)
      : rank_(rank),
        members_(members),
        compute_(rank.stream("compute")),
        communication_(rank.stream("communication")),
        sending_(rank.stream("edge")),
        group_(rank.channel(Axis::replicate, "calibration")),
        edge_(rank.edge(Axis::replicate, 1, "calibration")),
        in_(rank.allocate(communication_, Label::communication, largest, Dtype::fp32)),
        out_(rank.allocate(communication_, Label::communication, largest, Dtype::fp32)),
        message_(rank.allocate(sending_, Label::communication, largest, Dtype::fp32)) {
    const Prepared fill = rank.prepare(Kernel::fill(largest, 0.5, Dtype::fp32));
    communication_.launch(fill, {in_});
    communication_.launch(fill, {out_});
    sending_.launch(fill, {message_});
  }

  // Mean seconds of `calls` calls, the program's issuing beside them.
  double time(const CollectivePoint& point, int calls) {
    Stream& stream = point.operation == Collective::send ? sending_ : communication_;
    issue(point, stream);  // all members have come
    rank_.wait(compute_.record());
    const Seconds start = rank_.now();
    for (int call = 0; call < calls; ++call) issue(point, stream);
    rank_.wait(compute_.record());
    return (rank_.now() - start).value / calls;
  }

 private:
  void issue(const CollectivePoint& point, Stream& stream) {
    stream.after(compute_.record());
    const std::int64_t n = point.elements, part = n / members_;
    const Tensor in = in_.slice(0, n), out = out_.slice(0, n);
    const bool first = rank_.id() == 0;
    switch (point.operation) {
      case Collective::all_reduce:
        stream.all_reduce(in, Reduce::mean, group_);
        break;
      case Collective::all_gather:
        stream.all_gather(out, in.slice(0, part), group_);
        break;
      case Collective::reduce_scatter:
        stream.reduce_scatter(out.slice(0, part), in, Reduce::mean, group_);
        break;
      case Collective::broadcast:
        stream.broadcast(in, 0, group_);
        break;
      case Collective::all_to_all:
        stream.all_to_all(out, in, group_);
        break;
      case Collective::exchange:
        stream.exchange(in, out, first ? 1 : 0, group_);
        break;
      default:
        if (first) stream.send(message_.slice(0, n), edge_);
        if (!first) stream.receive(message_.slice(0, n), edge_);
    }
    compute_.after(stream.record());
  }

  Rank& rank_;
  const int members_;
  Stream &compute_, &communication_, &sending_;
  Channel &group_, &edge_;
  Tensor in_, out_, message_;
};

void measure_group(int members, bool quick, const std::function<void(double)>& progress,
                   std::vector<CollectiveSamples>& samples) {
  std::vector<CollectivePoint> points = collective_points(members, quick);
  if (members > 2)
    std::erase_if(points, [](const CollectivePoint& p) {
      return p.operation == Collective::send || p.operation == Collective::exchange;
    });
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

void measure_world(const WorldBenchOptions& options, Measurements& measurements) {
  const int rounds = options.quick ? 2 : 9;
  make_cpu_world(world_of(options.ranks))->run([&](Rank& rank) {
    measure_host_of(rank, options.ranks, rounds, measurements.host);
  });
  std::set<int> groups;
  for (int members = 2; members <= options.ranks; members *= 2) groups.insert(members);
  if (options.ranks > 1) groups.insert(options.ranks);
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
