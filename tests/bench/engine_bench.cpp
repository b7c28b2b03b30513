// What the engine of the simulated world costs: completions (against a bare heap), actor wake-ups
// and flows.
//
//   bench_engine [repetitions [prefix of the names to run]]
//
// Each measurement runs in a process of its own, as simulations do, and is repeated; the best is
// printed, with the median beside it, as one JSON object per line. Time is the CPU time of the
// process: one thread does all the work, and a busy machine disturbs it less than the time on the
// wall. Exits with 1 where a budget of the design is missed.
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "sim/simgrid/engine.hpp"
#include "tests/bench/bench.hpp"

namespace orrery::sim {
namespace {

struct Loop : EngineClient {
  std::function<void(Time, const Key&, std::uint64_t)> on_due;
  void due(Time now, const Key& key, std::uint64_t payload) override { on_due(now, key, payload); }
  void stuck() override {}
};

// As plain as a client can be: each completion schedules the next of its rank.
struct Chains : EngineClient {
  Engine* engine = nullptr;
  std::uint64_t left = 0;
  void due(Time now, const Key& key, std::uint64_t) override {
    if (left == 0) return;
    --left;
    engine->schedule(now + Time(staggered(key.rank, key.ordinal)),
                     Key{key.rank, 0, key.ordinal + 1}, 0);
  }
  void stuck() override {}
};

double engine_queue(std::uint32_t ranks, std::uint64_t events) {
  Chains client;
  Engine engine(client);
  client.engine = &engine;
  client.left = events;
  for (std::uint32_t r = 0; r < ranks; ++r) engine.schedule(Time(staggered(r, 0)), Key{r, 0, 0}, 0);
  const auto start = CpuClock::now();
  engine.run();
  return static_cast<double>(engine.counters().completions) / seconds_since(start);
}

// Wake-ups per second of actors that each wait for completions of their own.
double wake_ups(std::uint32_t ranks, std::uint64_t each, bool lockstep) {
  Loop client;
  EngineOptions options;
  options.actors = ranks;
  Engine engine(client, options);
  std::vector<ActorId> actors(ranks);
  client.on_due = [&](Time, const Key&, std::uint64_t rank) { engine.make_runnable(actors[rank]); };
  std::uint32_t begun = 0;
  double start = 0;
  for (std::uint32_t r = 0; r < ranks; ++r) {
    actors[r] = engine.spawn(r, 0, [&, r] {
      if (++begun == ranks) start = CpuClock::now();  // creating stacks is not waking
      for (std::uint64_t k = 0; k < each; ++k) {
        engine.schedule(engine.now() + Time(lockstep ? 1000 : staggered(r, k)), Key{r, 0, k}, r);
        engine.block();
      }
    });
  }
  engine.run();
  return static_cast<double>(ranks * each) / seconds_since(start);
}

// Flows per second when `live` of them are always under way, each on a link of its own.
double flows(std::uint32_t live, std::uint64_t total) {
  Loop client;
  Engine engine(client);
  std::vector<LinkId> links;
  for (std::uint32_t i = 0; i < live; ++i) links.push_back(engine.add_link(BytesPerSecond(50e9)));
  std::uint64_t left = total;
  const auto start_flow = [&](std::uint32_t i, std::uint64_t step) {
    const auto bytes = static_cast<std::int64_t>(staggered(i, step));
    engine.start_flow(std::span(&links[i], 1), Bytes(bytes), Key{i, 0, step}, 0);
  };
  client.on_due = [&](Time, const Key& key, std::uint64_t) {
    if (left == 0) return;
    --left;
    start_flow(key.rank, key.ordinal + 1);
  };
  for (std::uint32_t i = 0; i < live; ++i) start_flow(i, 0);
  const auto start = CpuClock::now();
  engine.run();
  return static_cast<double>(engine.counters().flows) / seconds_since(start);
}

// Whether contended transfers are as fast as the design asks for.
bool run_all(const Options& options) {
  const auto rate = [&options](const std::string& name, std::uint32_t count, auto measure) {
    const auto measured = report(name, static_cast<int>(count), options,
                                 [&measure] { return Measured{.per_second = measure()}; });
    return measured ? measured->per_second : 0;
  };
  for (const std::uint32_t n : {1'024u, 16'384u}) {
    const double bare = rate("bare_heap", n, [n] { return bare_heap(n, 5'000'000); });
    const double ours = rate("engine_queue", n, [n] { return engine_queue(n, 5'000'000); });
    if (bare > 0 && ours > 0) report_ratio("engine_queue_over_bare_heap", n, ours / bare);
  }
  for (const std::uint32_t n : {1'024u, 16'384u}) {
    const std::uint64_t each = n == 1'024 ? 500 : 60;
    rate("wake_ups_staggered", n, [n, each] { return wake_ups(n, each, false); });
    rate("wake_ups_lockstep", n, [n, each] { return wake_ups(n, each, true); });
  }
  bool met = true;
  for (const std::uint32_t n : {64u, 1'024u, 4'096u}) {
    const double flow_rate = rate("flows_private_links", n, [n] { return flows(n, 100'000); });
    if (n == 1'024 && flow_rate > 0)
      met = gate(flow_rate >= 50'000, "50,000 flows per second with 1,024 live");
  }
  return met;
}

}  // namespace
}  // namespace orrery::sim

int main(int argc, char** argv) { return orrery::bench_main(argc, argv, orrery::sim::run_all); }
