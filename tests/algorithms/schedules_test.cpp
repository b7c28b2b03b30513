// Every schedule on a grid of devices, micro-batches and chunks: valid, and as long and as large as
// its closed form says; and what is asked of a schedule that it cannot do.
#include <doctest/doctest.h>

#include <functional>
#include <numeric>

#include "algorithms/pipeline/timeline.hpp"
#include "backend/core/error.hpp"
#include "tests/algorithms/pipeline_run.hpp"

namespace orrery {
namespace {

using Peaks = std::vector<double>;

PipelineShape shape_of(int devices, int micro_batches, int chunks = 1) {
  PipelineShape shape{devices, micro_batches};
  shape.chunks = chunks;
  return shape;
}

Peaks peaks(const char* name, int devices, int micro_batches, int chunks = 1) {
  return peak_activations(*make_schedule(name, shape_of(devices, micro_batches, chunks)));
}

// All that can be made of the named schedules for 1 to 8 devices and 1 to 20 micro-batches.
void for_each(const std::vector<std::string>& names,
              const std::function<void(const PipelineSchedule&, const PipelineShape&)>& action) {
  for (const std::string& name : names)
    for (int devices = 2; devices <= 8; ++devices)
      for (int micro_batches = 1; micro_batches <= 20; ++micro_batches)
        for (int chunks = 1; chunks <= 3; ++chunks) {
          const PipelineShape shape = shape_of(devices, micro_batches, chunks);
          if (!objections(name, shape).empty()) continue;
          CAPTURE(name);
          CAPTURE(devices);
          CAPTURE(micro_batches);
          CAPTURE(chunks);
          action(*make_schedule(name, shape), shape);
        }
}

TEST_CASE("every schedule takes each micro-batch forward and backward once and comes to an end") {
  std::map<std::string, int> made;
  for_each(schedule_kinds(), [&](const PipelineSchedule& s, const PipelineShape& shape) {
    CHECK_NOTHROW(check(s));
    CHECK(s.stages == shape.devices * stages_per_device(s.name, shape.chunks));
    ++made[s.name];
  });
  for (const std::string& name : schedule_kinds()) {
    CAPTURE(name);
    CHECK(made[name] >= 7);
  }
}

TEST_CASE("a schedule that deadlocks, repeats or leaves out a task is found out") {
  PipelineSchedule s = *make_schedule("1f1b", shape_of(2, 2));
  CHECK_NOTHROW(check(s));
  PipelineSchedule swapped = s;
  std::swap(swapped.tasks[0][0], swapped.tasks[0][2]);  // a backward before its forward
  CHECK_THROWS_AS(check(swapped), Error);
  PipelineSchedule stuck = s;  // the last stage wants micro-batch 1 backward before it is there
  stuck.tasks[1] = {
      {Work::forward, 0, 1}, {Work::backward, 0, 1}, {Work::forward, 0, 0}, {Work::backward, 0, 0}};
  stuck.tasks[0] = {
      {Work::forward, 0, 0}, {Work::backward, 0, 0}, {Work::forward, 0, 1}, {Work::backward, 0, 1}};
  CHECK_THROWS_AS(check(stuck), Error);
  PipelineSchedule short_of = s;
  short_of.tasks[1].pop_back();
  CHECK_THROWS_AS(check(short_of), Error);
  PipelineSchedule twice = s;
  twice.tasks[0].push_back(twice.tasks[0].back());
  CHECK_THROWS_AS(check(twice), Error);
  PipelineSchedule early = *make_schedule("zb-h1", shape_of(2, 2));
  std::reverse(early.tasks[0].begin(), early.tasks[0].end());
  CHECK_THROWS_AS(check(early), Error);
}

TEST_CASE("GPipe and 1F1B take (m + p - 1)(F + B)") {
  for_each({"gpipe", "1f1b"}, [](const PipelineSchedule& s, const PipelineShape& shape) {
    CHECK(lay_out(s).makespan() == 3.0 * (shape.micro_batches + shape.devices - 1));
  });
}

TEST_CASE("interleaving divides the bubble by the number of chunks") {
  for_each({"interleaved-1f1b"}, [](const PipelineSchedule& s, const PipelineShape& shape) {
    // F = v and B = 2 v for a device make the times of a chunk whole numbers.
    const double makespan = lay_out(s, {{1, 1, 1, 0}}).makespan();
    CHECK(makespan - 3.0 * shape.chunks * shape.micro_batches == 3.0 * (shape.devices - 1));
  });
}

TEST_CASE("Chimera idles in p - 2 of 2 m + p - 2 slots") {
  for_each({"chimera"}, [](const PipelineSchedule& s, const PipelineShape& shape) {
    const Timeline t = lay_out(s, {{2, 1, 1, 0}});
    CHECK(t.makespan() == 2.0 * (2 * shape.micro_batches + shape.devices - 2));
    for (int d = 0; d < shape.devices; ++d) CHECK(t.busy(d) == 4.0 * shape.micro_batches);
  });
}

TEST_CASE("ZB-H1 has the bubble (p - 1)(F + Bi - W), ZB-H2 and ZB-V none if F = Bi = W") {
  for_each({"zb-h1"}, [](const PipelineSchedule& s, const PipelineShape& shape) {
    if (shape.micro_batches < shape.devices) return;  // too few to fill the pipeline
    CHECK(lay_out(s, {{1, 1, 1, 0}}).makespan() == 3.0 * shape.micro_batches + shape.devices - 1);
  });
  for_each({"zb-h2", "zb-v"}, [](const PipelineSchedule& s, const PipelineShape& shape) {
    CHECK(lay_out(s, {{1, 1, 1, 0}}).longest_span() ==
          3.0 * shape.micro_batches * s.stages / shape.devices);
  });
}

TEST_CASE("V-Half has at most half of 1F1B's bubble and V-Min two thirds, at less of its peak") {
  const auto check_within = [](const char* name, double bubble_part, double peak_part) {
    for_each({name}, [&](const PipelineSchedule& s, const PipelineShape& shape) {
      if (shape.micro_batches < 2 * shape.devices) return;  // the pipeline is not filled
      const double span = lay_out(s, {{1, 1, 1, 0}}).longest_span(), p = shape.devices;
      CHECK(span - 6.0 * shape.micro_batches <= bubble_part * 6 * (p - 1));
      for (const double peak : peak_activations(s)) CHECK(peak <= peak_part * 2 * p + 3);
    });
  };
  check_within("v-half", 1.0 / 2, 1.0 / 2);
  check_within("v-min", 2.0 / 3, 1.0 / 3);
}

// With F = Bi = W it finds what was made by hand.
TEST_CASE("the automatic scheduler keeps its limit and is as good as ZB-H1 and ZB-H2 at theirs") {
  for (const auto& [p, m] : {std::pair{4, 8}, {4, 12}, {8, 24}})
    for (const double w : {1.0, 0.5}) {
      PipelineShape shape = shape_of(p, m);
      shape.times = {1, 1, 1, 0};
      shape.for_weights = w;
      for (const int limit : {1, 2, p, 2 * p - 1, 2 * p}) {
        shape.activation_limit = limit;
        const auto schedule = make_schedule("zb-auto", shape);
        CHECK_NOTHROW(check(*schedule));
        for (const double peak : peak_activations(*schedule, w)) CHECK(peak <= limit);
        const double span = lay_out(*schedule, {shape.times}).longest_span();
        if (limit == p) CHECK(span == 3 * m + p - 1);
        if (limit >= 2 * p - 1) CHECK(span == 3 * m);
      }
    }
}

TEST_CASE("DualPipe has the bubble (p/2 - 1)(F&B + B - 3 W), DualPipeV the same on half as many") {
  for (const double pair : {3.0, 2.5}) {
    const auto bubble = [&](const PipelineSchedule& s) {
      const Timeline t = lay_out(s, {{1, 1, 1, 0}}, pair);
      double most = 0;
      for (int d = 0; d < s.devices; ++d) most = std::max(most, t.makespan() - t.busy(d));
      return most;
    };
    for_each({"dualpipe"}, [&](const PipelineSchedule& s, const PipelineShape& shape) {
      if (pair == 3) CHECK(bubble(s) == (shape.devices / 2 - 1) * (pair + 2 - 3));
      if (pair < 3) CHECK(bubble(s) <= (shape.devices / 2 - 1) * (pair + 2 - 3) + 0.5);
    });
    for_each({"dualpipev"}, [&](const PipelineSchedule& s, const PipelineShape& shape) {
      if (pair == 3) CHECK(bubble(s) == (shape.devices - 1) * (pair + 2 - 3));
    });
  }
}

TEST_CASE("peaks, in micro-batches that a device holds of one of its stages") {
  CHECK(peaks("gpipe", 4, 8) == Peaks{8, 8, 8, 8});
  CHECK(peaks("1f1b", 4, 8) == Peaks{4, 3, 2, 1});
  CHECK(peaks("1f1b", 8, 20) == Peaks{8, 7, 6, 5, 4, 3, 2, 1});
  CHECK(peaks("1f1b", 4, 2) == Peaks{2, 2, 2, 1});
  CHECK(peaks("interleaved-1f1b", 4, 8, 2) == Peaks{11, 9, 7, 5});
  CHECK(peaks("interleaved-1f1b", 8, 16, 2)[0] == 23);
  CHECK(peaks("interleaved-1f1b", 4, 8, 4)[0] == 19);
  CHECK(peaks("interleaved-1f1b", 4, 4, 2) == Peaks{8, 8, 7, 5});
  CHECK(peaks("chimera", 4, 4) == Peaks{3, 4, 4, 3});
  CHECK(peaks("chimera", 8, 8) == Peaks{5, 6, 7, 8, 8, 7, 6, 5});
  CHECK(peaks("zb-h1", 4, 8) == Peaks(4, 4));
  CHECK(peaks("zb-h1", 8, 24) == Peaks(8, 8));
  CHECK(peaks("zb-h2", 4, 8) == Peaks(4, 7));
  CHECK(peaks("zb-h2", 8, 24) == Peaks(8, 15));
  CHECK(peaks("zb-v", 4, 8) == Peaks(4, 8));  // half a device's layers each: 1F1B's 4
  CHECK(peaks("dualpipe", 8, 20) == Peaks(8, 9));
  CHECK(peaks("dualpipe", 4, 8) == Peaks(4, 5));
  CHECK(peaks("dualpipe", 8, 16) == Peaks(8, 9));
  CHECK(peaks("dualpipev", 4, 10) == Peaks(4, 9));
}

// Of the activations, `for_weights` wait for the weight gradients: device i of 1..p holds
// (p - i + 1) + (i - 1) W under ZB-H1 and (2 p - 2 i + 1) + (2 i - 2) W under ZB-H2 (table 2 of the
// paper).
TEST_CASE("zero bubble schedules hold more for input gradients at first, for weights at last") {
  for (const double w : {0.25, 0.5, 0.75})
    for (const int p : {4, 8}) {
      const Peaks h1 = peak_activations(*make_schedule("zb-h1", shape_of(p, 3 * p)), w),
                  h2 = peak_activations(*make_schedule("zb-h2", shape_of(p, 3 * p)), w);
      for (int i = 1; i <= p; ++i) {
        CHECK(h1[static_cast<std::size_t>(i - 1)] == (p - i + 1) + (i - 1) * w);
        CHECK(h2[static_cast<std::size_t>(i - 1)] == (2 * p - 2 * i + 1) + (2 * i - 2) * w);
      }
    }
}

// The ledger's peak of what blocks save, beside which boundary buffers of one element vanish.
void check_ledger(const PipelineCase& c, const Peaks& expected) {
  constexpr std::int64_t saved = 1'000'000;
  const RunReport report = run_pipeline(c, {1, 0, saved});
  for (std::size_t device = 0; device < expected.size(); ++device) {
    const Bytes activations =
        report.ranks[device].peak_by_label[static_cast<std::size_t>(Label::activations)];
    CHECK(activations.value / bytes_of(saved, Dtype::fp32).value == expected[device]);
  }
}

TEST_CASE("the ledger's peak under 1F1B is p - s micro-batches of saved activations") {
  check_ledger({}, {4, 3, 2, 1});
}
TEST_CASE("the ledger's peak under GPipe is all micro-batches' saved activations") {
  check_ledger({.schedule = "gpipe"}, {8, 8, 8, 8});
}
TEST_CASE("the ledger's peak under interleaved 1F1B is the schedule's") {
  check_ledger({.schedule = "interleaved-1f1b", .chunks = 2}, {11, 9, 7, 5});
}
TEST_CASE("the ledger's peak under Chimera is the schedule's") {
  check_ledger({.schedule = "chimera"}, peaks("chimera", 4, 8));
}
TEST_CASE("the ledger's peak under ZB-H2 is 2 p - 1 micro-batches") {
  check_ledger({.schedule = "zb-h2"}, {7, 7, 7, 7});
}
TEST_CASE("the ledger's peak under ZB-V is that of 1F1B's first device") {
  check_ledger({.schedule = "zb-v"}, {8, 8, 8, 8});
}
TEST_CASE("the ledger's peak under DualPipe is p + 1 micro-batches") {
  check_ledger({.schedule = "dualpipe"}, {5, 5, 5, 5});
}

TEST_CASE("backward_input gives back what the weight gradients do not need") {
  constexpr std::int64_t saved = 1'000'000;
  const RunReport report = run_pipeline({.schedule = "zb-h1"}, {1, saved, saved});
  const Peaks expected = peak_activations(*make_schedule("zb-h1", shape_of(4, 8)), 0.5);
  for (std::size_t device = 0; device < expected.size(); ++device) {
    const Bytes activations =
        report.ranks[device].peak_by_label[static_cast<std::size_t>(Label::activations)];
    CHECK(activations.value / bytes_of(saved, Dtype::fp32).value == 2 * expected[device]);
  }
}

std::string reasons(const char* name, const PipelineShape& shape) {
  std::string all;
  for (const Objection& o : objections(name, shape)) all += o.about + ": " + o.text + "\n";
  return all;
}

TEST_CASE("what a schedule cannot do is told with every reason") {
  CHECK(reasons("chimera", shape_of(5, 7, 2)) ==
        "chunks: chimera has one chunk per device and pipe\n"
        "pipeline: chimera needs an even number of devices, not 5\n"
        "micro_batches: chimera needs a multiple of 5 micro-batches per step, not 7\n");
  CHECK(reasons("dualpipe", shape_of(3, 5)) ==
        "pipeline: dualpipe needs an even number of devices, not 3\n"
        "micro_batches: dualpipe needs an even number of micro-batches per step, not 5\n"
        "micro_batches: dualpipe needs at least 6 micro-batches per step, not 5\n");
  CHECK(reasons("interleaved-1f1b", shape_of(4, 6)) ==
        "chunks: interleaved-1f1b interleaves at least 2 chunks per device\n"
        "micro_batches: interleaved-1f1b needs a multiple of 4 micro-batches per step, not 6\n");
  CHECK(reasons("zb-h2", shape_of(4, 6)) ==
        "micro_batches: zb-h2 needs at least 7 micro-batches per step, not 6\n");
  CHECK(reasons("pipedream", shape_of(4, 2)) ==
        "micro_batches: pipedream needs 1 micro-batch per step, since it updates after each, not "
        "2\n");
  CHECK(reasons("1f1b", shape_of(4, 1)).empty());
  CHECK(reasons("petrel", shape_of(4, 1)) == "schedule: unknown pipeline schedule 'petrel'\n");
  CHECK_THROWS_AS(make_schedule("chimera", shape_of(5, 7)), Error);
}

}  // namespace
}  // namespace orrery
