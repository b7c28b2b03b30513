// Makespans, bubbles and peaks of pipeline schedules, against their closed forms and the list
// simulator. In units of a forward; a whole backward takes two of them where nothing else is said.
#include "tests/algorithms/pipeline_run.hpp"

#include <doctest/doctest.h>

namespace orrery {
namespace {

// Engine, list simulator and the stated makespan agree, and what the first device does not compute
// is bubble.
RunReport check_makespan(const PipelineCase& c, double expected) {
  CHECK(c.laid_out().makespan() == doctest::Approx(expected).epsilon(1e-12));
  const RunReport report = run_pipeline(c);
  CHECK(makespan(report) == doctest::Approx(expected).epsilon(1e-12));
  for (const RankReport& rank : report.ranks) {
    const TimeParts parts = rank.steps[0].parts;
    CHECK(parts.total() == rank.steps[0].at);
    CHECK(parts.compute + parts.bubble == parts.total());
  }
  return report;
}

// Makespan (m + p - 1)(F + B) and bubble (p - 1)(F + B), of GPipe and 1F1B alike (Huang et al.
// 2019; Narayanan et al. 2021).
void check_flushed(const char* schedule, int devices, int micro_batches, double expected) {
  CHECK(expected == 3.0 * (micro_batches + devices - 1));
  const RunReport report = check_makespan(
      {.schedule = schedule, .devices = devices, .micro_batches = micro_batches}, expected);
  const TimeParts parts = report.ranks[0].steps[0].parts;
  CHECK(parts.compute == to_time(Seconds(3.0 * micro_batches)));
  CHECK(parts.bubble == to_time(Seconds(3.0 * (devices - 1))));
}

TEST_CASE("GPipe with 4 stages and 4 micro-batches takes 21") { check_flushed("gpipe", 4, 4, 21); }
TEST_CASE("GPipe with 4 stages and 8 micro-batches takes 33") { check_flushed("gpipe", 4, 8, 33); }
TEST_CASE("GPipe with 8 stages and 16 micro-batches takes 69") {
  check_flushed("gpipe", 8, 16, 69);
}
TEST_CASE("1F1B with 4 stages and 4 micro-batches takes 21") { check_flushed("1f1b", 4, 4, 21); }
TEST_CASE("1F1B with 4 stages and 8 micro-batches takes 33") { check_flushed("1f1b", 4, 8, 33); }
TEST_CASE("1F1B with 8 stages and 20 micro-batches takes 81") { check_flushed("1f1b", 8, 20, 81); }

TEST_CASE("GPipe pays a latency of 0.5 once per boundary and direction: 36") {
  check_makespan({.schedule = "gpipe", .latency = 0.5}, 36);
}
TEST_CASE("1F1B exposes a latency of 0.5 in its steady state: 41 with 4 stages") {
  check_makespan({.latency = 0.5}, 41);
}
TEST_CASE("1F1B exposes a latency of 0.5 in its steady state: 89 with 8 stages") {
  check_makespan({.devices = 8, .micro_batches = 16, .latency = 0.5}, 89);
}

// The in-flight window of p micro-batches bounds the rate: the steady period is (F + B) + 2 (p - 1)
// c / p.
void check_period(double latency, double period) {
  const PipelineCase c{.micro_batches = 48, .latency = latency};
  PipelineCase shorter = c;
  shorter.micro_batches = 8;
  CHECK((c.laid_out().makespan() - shorter.laid_out().makespan()) / 40 ==
        doctest::Approx(period).epsilon(1e-12));
  CHECK(makespan(run_pipeline(c)) == doctest::Approx(c.laid_out().makespan()).epsilon(1e-12));
}

TEST_CASE("1F1B with latency 0.25 has the period 3.375") { check_period(0.25, 3.375); }
TEST_CASE("1F1B with latency 0.5 has the period 3.75") { check_period(0.5, 3.75); }
TEST_CASE("1F1B with latency 1 has the period 4.5") { check_period(1, 4.5); }
TEST_CASE("1F1B with latency 2 has the period 6") { check_period(2, 6); }

void check_slow_stage(std::size_t position, double expected) {
  PipelineCase c;
  c.times.assign(4, {});
  c.times[position] = {2, 2, 2, 0};
  check_makespan(c, expected);
}

TEST_CASE("1F1B with a first stage of half the speed takes 51") { check_slow_stage(0, 51); }
TEST_CASE("1F1B with a second stage of half the speed takes 53") { check_slow_stage(1, 53); }
TEST_CASE("1F1B with a last stage of half the speed takes 57") { check_slow_stage(3, 57); }

// A chunk is 1 / v of a device's layers.
PipelineCase interleaved_case(int devices, int micro_batches, int chunks) {
  const double f = 1.0 / chunks;
  return {.schedule = "interleaved-1f1b",
          .devices = devices,
          .micro_batches = micro_batches,
          .chunks = chunks,
          .times = {{f, f, f, 0}}};
}

TEST_CASE("interleaved 1F1B with 4 devices, 8 micro-batches and 2 chunks takes 28.5") {
  check_makespan(interleaved_case(4, 8, 2), 28.5);
}
TEST_CASE("interleaved 1F1B with 8 devices, 16 micro-batches and 2 chunks takes 58.5") {
  check_makespan(interleaved_case(8, 16, 2), 58.5);
}
TEST_CASE("interleaved 1F1B with 4 devices, 8 micro-batches and 4 chunks takes 26.25") {
  check_makespan(interleaved_case(4, 8, 4), 26.25);
}
TEST_CASE("interleaved 1F1B with 4 devices, 4 micro-batches and 2 chunks takes 16.5") {
  check_makespan(interleaved_case(4, 4, 2), 16.5);
}

PipelineCase chimera_case(int devices, double backward) {
  return {.schedule = "chimera",
          .devices = devices,
          .micro_batches = devices,
          .times = {{1, backward / 2, backward / 2, 0}}};
}

// 3 D - 2 slots, of which D - 2 are idle (Li and Hoefler 2021).
TEST_CASE("Chimera with 4 devices and F = B takes 10") { check_makespan(chimera_case(4, 1), 10); }
TEST_CASE("Chimera with 6 devices and F = B takes 16") { check_makespan(chimera_case(6, 1), 16); }
TEST_CASE("Chimera with 8 devices and F = B takes 22") { check_makespan(chimera_case(8, 1), 22); }
TEST_CASE("Chimera with 4 devices and B = 2 F takes 16") { check_makespan(chimera_case(4, 2), 16); }
TEST_CASE("Chimera with 6 devices and B = 2 F takes 26") { check_makespan(chimera_case(6, 2), 26); }
TEST_CASE("Chimera with 8 devices and B = 2 F takes 36") { check_makespan(chimera_case(8, 2), 36); }

PipelineCase dualpipe_case(int devices, int micro_batches, double pair) {
  return {.schedule = "dualpipe", .devices = devices, .micro_batches = micro_batches, .pair = pair};
}

// (P/2 - 1)(F&B + B - 3 W) more than the busiest device computes (deepseek-ai/DualPipe).
TEST_CASE("DualPipe with 8 devices and 20 micro-batches takes 66") {
  check_makespan(dualpipe_case(8, 20, 3), 66);
}
TEST_CASE("DualPipe with 4 devices and 8 micro-batches takes 26") {
  check_makespan(dualpipe_case(4, 8, 3), 26);
}
TEST_CASE("DualPipe with 8 devices and 16 micro-batches takes 54") {
  check_makespan(dualpipe_case(8, 16, 3), 54);
}
TEST_CASE("DualPipe with 8 devices, 20 micro-batches and pairs that take 2.5 takes 59") {
  check_makespan(dualpipe_case(8, 20, 2.5), 59);
}
TEST_CASE("DualPipe with 4 devices, 8 micro-batches and pairs that take 2.5 takes 24") {
  check_makespan(dualpipe_case(4, 8, 2.5), 24);
}

// Half of DualPipe's devices do what DualPipe's do.
TEST_CASE("DualPipeV with 4 devices and 10 micro-batches takes DualPipe's 66 on 8 with 20") {
  PipelineCase c = dualpipe_case(4, 10, 3);
  c.schedule = "dualpipev";
  check_makespan(c, 66);
}

PipelineCase zero_bubble_case(const char* schedule, int devices, int micro_batches) {
  return {.schedule = schedule,
          .devices = devices,
          .micro_batches = micro_batches,
          .times = {{1, 1, 1, 0}}};
}

TEST_CASE("ZB-H1 with 4 devices and 8 micro-batches takes 27") {
  check_makespan(zero_bubble_case("zb-h1", 4, 8), 27);
}
TEST_CASE("ZB-H1 with 4 devices and 12 micro-batches takes 39") {
  check_makespan(zero_bubble_case("zb-h1", 4, 12), 39);
}
TEST_CASE("ZB-H1 with 8 devices and 24 micro-batches takes 79") {
  check_makespan(zero_bubble_case("zb-h1", 8, 24), 79);
}

// Where no device waits from its first task to its last, a step takes what a device computes: the
// next one starts behind it.
void check_no_bubble(PipelineCase c, double expected) {
  CHECK(c.laid_out().longest_span() == expected);
  c.steps = 3;
  const RunReport report = run_pipeline(c);
  CHECK(makespan(report, 1) - makespan(report, 0) == doctest::Approx(expected).epsilon(1e-12));
  CHECK(makespan(report, 2) - makespan(report, 1) == doctest::Approx(expected).epsilon(1e-12));
  for (const RankReport& rank : report.ranks)
    CHECK(rank.steps[2].parts.bubble == rank.steps[0].parts.bubble);
}

TEST_CASE("ZB-H2 with 4 devices and 8 micro-batches takes 24, all of it computing") {
  check_no_bubble(zero_bubble_case("zb-h2", 4, 8), 24);
}
TEST_CASE("ZB-H2 with 4 devices and 12 micro-batches takes 36, all of it computing") {
  check_no_bubble(zero_bubble_case("zb-h2", 4, 12), 36);
}
TEST_CASE("ZB-H2 with 8 devices and 24 micro-batches takes 72, all of it computing") {
  check_no_bubble(zero_bubble_case("zb-h2", 8, 24), 72);
}
TEST_CASE("ZB-V with 4 devices and 8 micro-batches takes 24, all of it computing") {
  PipelineCase c = zero_bubble_case("zb-v", 4, 8);
  c.times = {{0.5, 0.5, 0.5, 0}};
  check_no_bubble(c, 24);
}

// A step of an asynchronous schedule takes what its slowest device computes, and that one never
// waits, but for the first step.
void check_asynchronous(PipelineCase c, double period) {
  c.steps = 16;  // at the end the pipeline drains
  const RunReport report = run_pipeline(c);
  for (std::size_t step = 8; step < 12; ++step)
    CHECK(makespan(report, step) - makespan(report, step - 1) ==
          doctest::Approx(period).epsilon(1e-12));
  Time least = time_never;
  for (const RankReport& rank : report.ranks)
    least = std::min(least, rank.steps[10].parts.bubble - rank.steps[6].parts.bubble);
  CHECK(least == Time(0));
}

TEST_CASE("PipeDream has no bubble: a micro-batch every F + B") {
  check_asynchronous({.schedule = "pipedream", .micro_batches = 1}, 3);
}
TEST_CASE("PipeDream's period is that of its slowest stage") {
  PipelineCase c{.schedule = "pipedream", .micro_batches = 1};
  c.times.assign(4, {});
  c.times[2] = {2, 2, 2, 0};
  check_asynchronous(c, 6);
}
TEST_CASE("PipeDream-2BW has no bubble: m (F + B) per step") {
  check_asynchronous({.schedule = "pipedream-2bw", .micro_batches = 4}, 12);
}

void check_v(const char* schedule, double bubble, double peak) {
  PipelineCase c = zero_bubble_case(schedule, 4, 12);
  c.times = {{0.5, 0.5, 0.5, 0}};
  CHECK(c.laid_out().longest_span() - 36 == bubble);
  const std::vector<double> peaks = peak_activations(*c.make());
  CHECK(*std::max_element(peaks.begin(), peaks.end()) == peak);
  c.steps = 1;
  CHECK(makespan(run_pipeline(c)) == doctest::Approx(c.laid_out().makespan()).epsilon(1e-12));
}
TEST_CASE("V-Half with 4 devices has a bubble of 2.5 and holds 6 of 1F1B's 8 halves of a device") {
  check_v("v-half", 2.5, 6);
}
TEST_CASE("V-Min with 4 devices has a bubble of 5.5 and holds 4 of 1F1B's 8 halves of a device") {
  check_v("v-min", 5.5, 4);
}

PipelineCase automatic(int devices, int micro_batches, int limit) {
  PipelineCase c = zero_bubble_case("zb-auto", devices, micro_batches);
  c.limit = limit;
  return c;
}
TEST_CASE("the automatic scheduler finds ZB-H1's 27 with a limit of p") {
  check_makespan(automatic(4, 8, 4), 27);
}
TEST_CASE("the automatic scheduler finds ZB-H2's 72 with a limit of 2 p - 1") {
  check_no_bubble(automatic(8, 24, 15), 72);
}

TEST_CASE("a stage without layers, or layers that do not add up, are refused") {
  using Blocks = std::vector<std::pair<int, int>>;
  CHECK(stage_blocks(6, 1) == Blocks{{0, 6}});
  CHECK(stage_blocks(6, 2) == Blocks{{0, 3}, {3, 6}});
  CHECK(stage_blocks(7, 2) == Blocks{{0, 4}, {4, 7}});
  CHECK(stage_blocks(6, 3, {0, 4, 0}) == Blocks{{0, 1}, {1, 5}, {5, 6}});
  CHECK_THROWS_AS(stage_blocks(4, 3), Error);
  CHECK_THROWS_AS(stage_blocks(6, 3, {2, 0, 2}), Error);
  CHECK_THROWS_AS(stage_blocks(6, 2, {2, 3}), Error);
  CHECK_THROWS_AS(stage_blocks(6, 2, {4}), Error);
}

}  // namespace
}  // namespace orrery
