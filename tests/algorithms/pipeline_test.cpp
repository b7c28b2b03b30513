// Makespans, bubbles and peaks of pipeline schedules, against their closed forms.
#include "tests/algorithms/pipeline_run.hpp"

#include <doctest/doctest.h>

namespace orrery {
namespace {

// Makespan (m + p - 1)(F + B) and bubble (p - 1)(F + B), of GPipe and 1F1B alike (Huang et al.
// 2019; Narayanan et al. 2021).
void check_flushed(const char* schedule, int stages, int micro_batches, double expected) {
  const RunReport report = run_pipeline(
      {.schedule = schedule, .stages = stages, .micro_batches = micro_batches, .times = {}});
  CHECK(makespan(report) == expected);
  CHECK(expected == 3.0 * (micro_batches + stages - 1));
  const TimeParts parts = report.ranks[0].steps[0].parts;
  CHECK(parts.compute == to_time(Seconds(3.0 * micro_batches)));
  CHECK(parts.bubble == to_time(Seconds(3.0 * (stages - 1))));
  CHECK(parts.total() == report.ranks[0].steps[0].at);
}

TEST_CASE("GPipe with 4 stages and 4 micro-batches takes 21") { check_flushed("gpipe", 4, 4, 21); }
TEST_CASE("GPipe with 4 stages and 8 micro-batches takes 33") { check_flushed("gpipe", 4, 8, 33); }
TEST_CASE("GPipe with 8 stages and 16 micro-batches takes 69") {
  check_flushed("gpipe", 8, 16, 69);
}
TEST_CASE("1F1B with 4 stages and 4 micro-batches takes 21") { check_flushed("1f1b", 4, 4, 21); }
TEST_CASE("1F1B with 4 stages and 8 micro-batches takes 33") { check_flushed("1f1b", 4, 8, 33); }
TEST_CASE("1F1B with 8 stages and 20 micro-batches takes 81") { check_flushed("1f1b", 8, 20, 81); }

void check_latency(const PipelineCase& c, double expected) {
  CHECK(reference_makespan(c) == expected);
  CHECK(makespan(run_pipeline(c)) == expected);
}

TEST_CASE("GPipe pays a latency of 0.5 once per boundary and direction: 36") {
  check_latency({.schedule = "gpipe", .stages = 4, .micro_batches = 8, .latency = 0.5, .times = {}},
                36);
}
TEST_CASE("1F1B exposes a latency of 0.5 in its steady state: 41 with 4 stages") {
  check_latency({.schedule = "1f1b", .stages = 4, .micro_batches = 8, .latency = 0.5, .times = {}},
                41);
}
TEST_CASE("1F1B exposes a latency of 0.5 in its steady state: 89 with 8 stages") {
  check_latency({.schedule = "1f1b", .stages = 8, .micro_batches = 16, .latency = 0.5, .times = {}},
                89);
}

// The in-flight window of p micro-batches bounds the rate: the steady period is (F + B) + 2 (p - 1)
// c / p.
void check_period(double latency, double period) {
  const PipelineCase c{
      .schedule = "1f1b", .stages = 4, .micro_batches = 48, .latency = latency, .times = {}};
  PipelineCase shorter = c;
  shorter.micro_batches = 8;
  CHECK((reference_makespan(c) - reference_makespan(shorter)) / 40 ==
        doctest::Approx(period).epsilon(1e-12));
  CHECK(makespan(run_pipeline(c)) == doctest::Approx(reference_makespan(c)).epsilon(1e-12));
}

TEST_CASE("1F1B with latency 0.25 has the period 3.375") { check_period(0.25, 3.375); }
TEST_CASE("1F1B with latency 0.5 has the period 3.75") { check_period(0.5, 3.75); }
TEST_CASE("1F1B with latency 1 has the period 4.5") { check_period(1, 4.5); }
TEST_CASE("1F1B with latency 2 has the period 6") { check_period(2, 6); }

void check_slow_stage(std::size_t position, double expected) {
  PipelineCase c{.times = std::vector<StageTimes>(4)};
  c.times[position] = {2, 4};
  check_latency(c, expected);
}

TEST_CASE("1F1B with a first stage of half the speed takes 51") { check_slow_stage(0, 51); }
TEST_CASE("1F1B with a second stage of half the speed takes 53") { check_slow_stage(1, 53); }
TEST_CASE("1F1B with a last stage of half the speed takes 57") { check_slow_stage(3, 57); }

// Micro-batches between forward and backward at once, from the schedule alone.
std::vector<int> peaks(const std::string& schedule, int stages, int micro_batches) {
  std::vector<int> all;
  for (int stage = 0; stage < stages; ++stage) {
    int held = 0, most = 0;
    for (const PipelineTask& task : expand(make_schedule(schedule, stage, stages, micro_batches))) {
      held += task.work == Work::forward ? 1 : -1;
      most = std::max(most, held);
    }
    CHECK(held == 0);
    all.push_back(most);
  }
  return all;
}

TEST_CASE("GPipe holds every micro-batch on every stage, 1F1B p - s of them") {
  CHECK(peaks("gpipe", 4, 8) == std::vector<int>{8, 8, 8, 8});
  CHECK(peaks("1f1b", 4, 8) == std::vector<int>{4, 3, 2, 1});
  CHECK(peaks("1f1b", 8, 20) == std::vector<int>{8, 7, 6, 5, 4, 3, 2, 1});
  CHECK(peaks("1f1b", 4, 2) == std::vector<int>{2, 2, 2, 1});
}

void check_peak_memory(const char* schedule, const std::vector<int>& expected) {
  constexpr std::int64_t saved = 1'000'000;  // beside which boundary buffers of one element vanish
  const RunReport report = run_pipeline({.schedule = schedule, .times = {}}, saved);
  for (std::size_t stage = 0; stage < expected.size(); ++stage) {
    const Bytes activations =
        report.ranks[stage].peak_by_label[static_cast<std::size_t>(Label::activations)];
    CHECK(activations.value / bytes_of(saved, Dtype::fp32).value == expected[stage]);
  }
}

TEST_CASE("the ledger's peak under 1F1B is p - s micro-batches of saved activations") {
  check_peak_memory("1f1b", {4, 3, 2, 1});
}
TEST_CASE("the ledger's peak under GPipe is all micro-batches' saved activations") {
  check_peak_memory("gpipe", {8, 8, 8, 8});
}

TEST_CASE("every micro-batch goes forward once and backward once, in order") {
  for (const char* schedule : {"gpipe", "1f1b"})
    for (int stages = 1; stages <= 6; ++stages)
      for (int micro_batches = 1; micro_batches <= 9; ++micro_batches)
        for (int stage = 0; stage < stages; ++stage) {
          int forwards = 0, backwards = 0;
          for (const PipelineTask& task :
               expand(make_schedule(schedule, stage, stages, micro_batches)))
            CHECK(task.micro_batch == (task.work == Work::forward ? forwards++ : backwards++));
          CHECK(forwards == micro_batches);
          CHECK(backwards == micro_batches);
        }
}

TEST_CASE("inner blocks divide evenly over the stages, the first and last block go to the ends") {
  CHECK(stage_blocks(6, 0, 1) == std::pair{0, 6});
  CHECK(stage_blocks(6, 0, 2) == std::pair{0, 3});
  CHECK(stage_blocks(6, 1, 2) == std::pair{3, 6});
  CHECK(stage_blocks(7, 0, 2) == std::pair{0, 4});
  CHECK_THROWS_AS(stage_blocks(4, 0, 3), Error);
}

}  // namespace
}  // namespace orrery
