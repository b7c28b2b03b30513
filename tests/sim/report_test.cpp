#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/sim/simulate.hpp"

namespace orrery {

namespace {

// A little of everything.
void train(Rank& rank) {
  Channel& data = rank.channel(Axis::replicate, "gradients");
  Channel& forward = rank.edge(Axis::pipeline, 1, "forward");
  Stream& compute = rank.stream("compute");
  Stream& comm = rank.stream("comm");
  Stream& in = rank.stream("in");
  Stream& out = rank.stream("out");
  Tensor gradients = rank.allocate(compute, Label::gradients, 300'000, Dtype::fp32);
  Tensor activations = rank.allocate(compute, Label::activations, 10'000, Dtype::bf16);
  const Prepared kernel = timed(rank, "kernel", 1.7 + 0.13 * rank.id());
  const Sequence& block = rank.sequence("block" + std::to_string(rank.id()), [&](Sequence& s) {
    for (int i = 0; i < 5; ++i) s.add(kernel, {});
  });
  const bool first = rank.coordinate(Axis::pipeline) == 0;
  for (int step = 0; step < 3; ++step) {
    for (int micro_batch = 0; micro_batch < 4; ++micro_batch) {
      if (!first) {
        in.after(compute.record());
        in.receive(activations, forward);
        compute.after(in.record());
      }
      compute.launch(block, {});
      if (first) {
        out.after(compute.record());
        out.send(activations, forward);
      }
    }
    compute.launch(kernel);
    comm.after(compute.record());
    comm.all_reduce(gradients, Reduce::mean, data);
    if (step == 1)
      rank.wait(comm.record());
    else
      compute.after(comm.record());
    if (first) compute.after(out.record());
    compute.launch(kernel);
    compute.mark_step(step);
    rank.record_loss(step, 1.0 / (step + 1));
  }
}

Simulation training() {
  Simulation simulation(2, Axis::pipeline);
  simulation.machine.gpus = 4;
  simulation.world.grid.set(Axis::replicate, 2);
  simulation.machine.host = {500_ns, 900_ns, 2_us, 1_us};
  simulation.options.host_clock = true;
  simulation.options.fidelity = Fidelity::flow;
  return simulation;
}

}  // namespace

TEST_CASE("the parts of every step sum to its time, to the picosecond") {
  Simulation simulation = training();
  const RunReport report = simulation.run(train);
  for (const RankReport& rank : report.ranks) {
    REQUIRE(rank.steps.size() == 3);
    Time before;
    for (const StepMark& step : rank.steps) {
      CHECK(step.parts.total() == step.at);
      CHECK(step.at > before);
      before = step.at;
    }
    const TimeParts& parts = rank.steps.back().parts;
    CHECK(parts.exposed_communication > Time{});
    CHECK(parts.overhead > Time{});
    CHECK(rank.losses.at(2) == doctest::Approx(1.0 / 3));
  }
  CHECK(report.ranks[1].steps.back().parts.bubble > Time{});  // it waits for its first stage
}

TEST_CASE("the table of kernels sums to the computing of the steps behind the first") {
  Simulation simulation = training();
  simulation.options.work_times = true;
  const RunReport report = simulation.run(train);
  for (std::size_t rank = 0; rank < report.ranks.size(); ++rank) {
    const RankReport& told = report.ranks[rank];
    REQUIRE(told.work.size() == 2);
    const std::string block = "block" + std::to_string(rank);
    CHECK(told.work[0] == WorkRow{block, "kernel", WorkClass::other, 40, told.work[0].time});
    CHECK(told.work[1] == WorkRow{"kernel", "kernel", WorkClass::other, 4, told.work[1].time});
    CHECK(told.work[0].time == Time(10 * told.work[1].time.picoseconds));
    CHECK(told.work[0].time + told.work[1].time ==
          told.steps.back().parts.compute - told.steps.front().parts.compute);
  }
}

TEST_CASE("each part of the time is what the compute stream waited for") {
  Simulation simulation(2);
  simulation.machine.alpha = 0_us;
  simulation.machine.host = {2_us, 2_us, 0_us, 0_us};
  simulation.options.host_clock = true;
  const RunReport report = simulation.run([](Rank& rank) {
    Channel& data = rank.channel(Axis::replicate, "data");
    Stream& compute = rank.stream("compute");
    Stream& comm = rank.stream("comm");
    Tensor x = rank.allocate(comm, Label::gradients, 500'000, Dtype::fp32);  // 40 us
    compute.launch(timed(rank, "a", 10));                                    // 2 to 12
    comm.all_reduce(x, Reduce::sum, data);                                   // 4 to 44
    compute.after(comm.record());                                            // issued at 6
    compute.launch(timed(rank, "b", 5));                                     // 44 to 49
    rank.sleep(us(100));                                                     // 8 to 108
    compute.launch(timed(rank, "c", 1));                                     // 110 to 111
    comm.all_reduce(x, Reduce::sum, data);                                   // 112 to 152
    rank.wait(comm.record());
    compute.launch(timed(rank, "d", 1));  // 154 to 155
    compute.mark_step(0);
  });
  const StepMark& step = report.ranks[0].steps.at(0);
  CHECK(step.at == 155_us);
  CHECK(step.parts.compute == 17_us);
  CHECK(step.parts.exposed_communication == 32_us + 40_us);
  CHECK(step.parts.idle == 59_us);  // asleep, from 49 to 108
  CHECK(step.parts.overhead == 2_us + 2_us + 1_us + 2_us);
  const ChannelUse& use = report.ranks[0].channels.at(0).use;
  CHECK(use.busy == 80_us);
  CHECK(use.exposed == 72_us);
}

TEST_CASE("a step marked on another stream accounts for the compute stream so far") {
  Simulation simulation(1);
  const RunReport report = simulation.run([](Rank& rank) {
    Stream& compute = rank.stream("compute");
    Stream& update = rank.stream("update");
    compute.launch(timed(rank, "a", 10));
    update.launch(timed(rank, "u", 4));
    update.mark_step(0);
    update.launch(timed(rank, "u", 20));
    update.mark_step(1);
  });
  CHECK(report.ranks[0].steps.at(0).parts.compute == 4_us);
  CHECK(report.ranks[0].steps.at(1).parts.compute == 10_us);
  CHECK(report.ranks[0].steps.at(1).parts.total() == 24_us);
}

TEST_CASE("equal runs give equal reports and traces, byte for byte") {
  const auto run = [] {
    return in_child([] {
      Simulation simulation = training();
      simulation.world.decisions = DecisionMode::record;
      StringTraceSink sink;
      simulation.options.trace = &sink;
      const RunReport report = simulation.run(train);
      return to_text(report) + sink.text() + (sink.finished() ? "" : "unfinished");
    });
  };
  const std::string once = run();
  CHECK(once.size() > 10'000);
  CHECK(once == run());
  CHECK(once.find("unfinished") == std::string::npos);
}

TEST_CASE("a trace changes nothing in the report") {
  const auto run = [](bool traced) {
    return in_child([=] {
      Simulation simulation = training();
      StringTraceSink sink;
      if (traced) simulation.options.trace = &sink;
      return to_text(simulation.run(train));
    });
  };
  CHECK(run(true) == run(false));
}

TEST_CASE(
    "a trace is JSON whose slices nest on every track, with arrows from senders to receivers") {
  Simulation simulation = training();
  StringTraceSink sink;
  simulation.options.trace = &sink;
  const RunReport report = simulation.run(train);
  const auto trace = nlohmann::json::parse(sink.text());
  struct Slice {
    std::int64_t begin, end;
    std::string name;
  };
  std::map<std::pair<int, int>, std::vector<Slice>> tracks;
  std::map<int, int> arrows;
  std::vector<std::string> names;
  const auto picoseconds = [](double microseconds) { return std::llround(microseconds * 1e6); };
  std::int64_t last = 0;
  for (const auto& event : trace["traceEvents"]) {
    const std::string phase = event["ph"];
    if (phase == "M") names.push_back(event["args"]["name"]);
    if (phase == "s") ++arrows[event["id"]];
    if (phase == "f") --arrows[event["id"]];
    if (phase != "X") continue;
    const std::int64_t begin = picoseconds(event["ts"]);
    const std::int64_t end = begin + picoseconds(event["dur"]);
    tracks[{event["pid"], event["tid"]}].push_back({begin, end, event["name"]});
    last = std::max(last, end);
  }
  CHECK(last == static_cast<std::int64_t>(report.end.picoseconds));
  CHECK(std::count(names.begin(), names.end(), "compute") == 4);
  CHECK(std::count(names.begin(), names.end(), "rank 3") == 1);
  CHECK_FALSE(arrows.empty());
  for (const auto& [id, open] : arrows) CHECK(open == 0);
  CHECK(tracks.size() >= 4 * 2 + 2);
  int nested = 0;
  for (auto& [track, slices] : tracks) {
    std::stable_sort(slices.begin(), slices.end(), [](const Slice& a, const Slice& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
    });
    std::vector<std::int64_t> open;
    for (const Slice& slice : slices) {
      while (!open.empty() && open.back() <= slice.begin) open.pop_back();
      if (!open.empty()) {
        CHECK_MESSAGE(slice.end <= open.back(), slice.name);
        ++nested;
      }
      open.push_back(slice.end);
    }
  }
  CHECK(nested >= 4 * 3 * 5);
}

TEST_CASE("an exchange tells its peer, and how many steps either has ended since its last") {
  Simulation simulation(3);
  StringTraceSink sink;
  simulation.options.trace = &sink;
  // Rank 1 exchanges with rank 0, with rank 2, and with rank 0 again.
  const std::vector<std::vector<std::pair<int, int>>> steps_then_peer{
      {{3, 1}, {1, 1}}, {{2, 0}, {4, 2}, {0, 0}}, {{5, 1}}};
  simulation.run([&](Rank& rank) {
    Channel& channel = rank.channel(Axis::replicate, "gossip");
    Stream &compute = rank.stream("compute"), &comm = rank.stream("comm");
    Tensor mine = rank.allocate(comm, Label::communication, 100, Dtype::fp32);
    Tensor theirs = rank.allocate(comm, Label::communication, 100, Dtype::fp32);
    const Prepared kernel = timed(rank, "gradient", 3);
    std::int64_t step = 0;
    for (const auto& [steps, peer] : steps_then_peer[static_cast<std::size_t>(rank.id())]) {
      for (int i = 0; i < steps; ++i) {
        compute.launch(kernel);
        compute.mark_step(step++);
      }
      comm.after(compute.record());
      rank.wait(comm.exchange(mine, theirs, peer, channel));
    }
  });
  std::vector<std::vector<int>> seen;  // pid, peer, staleness, of the peer
  int arrows = 0;
  const auto trace = nlohmann::json::parse(sink.text());
  for (const auto& event : trace["traceEvents"]) {
    if (event["ph"] == "s" || event["ph"] == "f") ++arrows;
    if (!event.contains("args") || !event["args"].contains("peer")) continue;
    const auto& args = event["args"];
    seen.push_back({event["pid"], args["peer"], args["staleness"], args["peer_staleness"]});
  }
  CHECK(arrows == 2 * 3);
  std::sort(seen.begin(), seen.end());
  CHECK(seen ==
        std::vector<std::vector<int>>{
            {0, 1, 1, 0}, {0, 1, 3, 2}, {1, 0, 0, 1}, {1, 0, 2, 3}, {1, 2, 4, 5}, {2, 1, 5, 4}});
}

TEST_CASE("the trace has a counter of each link's bytes per second, which sum to what it carried") {
  Simulation simulation = training();
  StringTraceSink sink;
  std::vector<double> carried;
  simulation.options.trace = &sink;
  simulation.options.link_bytes = &carried;
  simulation.run(train);
  const auto trace = nlohmann::json::parse(sink.text());
  struct Counter {
    double since = 0, rate = 0, bytes = 0, highest = 0;
  };
  std::map<std::string, Counter> counters;
  std::string process;
  for (const auto& event : trace["traceEvents"]) {
    if (event["ph"] == "M" && event["name"] == "process_name" && event["pid"] == 4)
      process = event["args"]["name"];
    if (event["ph"] != "C") continue;
    CHECK(event["pid"] == 4);
    Counter& counter = counters[event["name"]];
    const double at = event["ts"].get<double>() * 1e-6;
    counter.bytes += counter.rate * (at - counter.since);
    counter.since = at;
    counter.rate = event["args"]["value"];
    counter.highest = std::max(counter.highest, counter.rate);
  }
  CHECK(process == "links");
  const UniformMachine machine(simulation.machine);
  REQUIRE(carried.size() == machine.links().size());
  int used = 0;
  for (std::size_t i = 0; i < carried.size(); ++i) {
    const LinkSpec& link = machine.links()[i];
    CAPTURE(link.name);
    const Counter& counter = counters[link.name];
    CHECK(counter.bytes == doctest::Approx(carried[i]).epsilon(1e-6));
    CHECK(counter.rate == 0);
    CHECK(counter.highest <= link.bandwidth.value * (1 + 1e-9));
    used += carried[i] > 0 ? 1 : 0;
  }
  CHECK(used == 8);
}

TEST_CASE("a trace file appears only when the run has succeeded") {
  const auto folder = std::filesystem::temp_directory_path() / "orrery_trace_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directory(folder);
  const auto count = [&] {
    return std::distance(std::filesystem::directory_iterator(folder),
                         std::filesystem::directory_iterator());
  };
  const auto run = [&](bool fails) {
    in_child([&] {
      Simulation simulation(1);
      FileTraceSink sink(folder / "trace.json");
      simulation.options.trace = &sink;
      simulation.run([&](Rank& rank) {
        rank.stream("compute").launch(timed(rank, "k", 1));
        if (fails) throw Error(Category::invalid_program, "stop");
      });
      return std::string();
    });
  };
  run(true);
  CHECK(count() == 0);
  run(false);
  CHECK(count() == 1);
  std::ifstream file(folder / "trace.json");
  CHECK(nlohmann::json::parse(file)["traceEvents"].size() == 3);
  std::filesystem::remove_all(folder);
}

TEST_CASE("an error says which rank, and when") {
  Simulation simulation(2);
  const Error error = error_of([&] {
    simulation.run([](Rank& rank) {
      rank.sleep(us(1.5));
      if (rank.id() == 1) throw Error(Category::invalid_program, "stop");
      rank.sleep(us(100));
    });
  });
  CHECK(error.message() == "stop");
  CHECK(error.context("rank") == "1");
  CHECK(error.context("time") == "1.500000 us");
}

TEST_CASE("a machine with fewer GPUs than ranks is refused") {
  UniformSpec spec;
  spec.gpus = 3;
  const UniformMachine machine(spec);
  WorldOptions world;
  world.grid.set(Axis::replicate, 4);
  SimOptions options;
  CHECK(error_of([&] { make_sim_world(world, options); }).category() == Category::config);
  options.machine = &machine;
  CHECK(error_of([&] { make_sim_world(world, options); }).category() == Category::config);
}

}  // namespace orrery
