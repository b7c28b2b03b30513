#include "scenarios/cli/result.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>

#include "scenarios/cli/curve.hpp"
#include "scenarios/cli/version.hpp"

namespace orrery::cli {

namespace {

double seconds(Time t) { return t.seconds().value; }

// Duration of the steps that count, and how many they are: all but the first, when there is more
// than one.
struct Window {
  Time duration;
  double steps = 1;
};

Window window_of(const RankReport& rank) {
  const auto& marks = rank.steps;
  if (marks.empty()) return {Time{}, 1};
  if (marks.size() == 1) return {marks[0].at, 1};
  return {marks.back().at - marks.front().at, static_cast<double>(marks.size() - 1)};
}

std::size_t slowest_rank(const RunReport& report) {
  std::vector<Time> durations;  // by report
  for (const RankReport& rank : report.ranks.different())
    durations.push_back(window_of(rank).duration);
  std::size_t slowest = 0;
  for (std::size_t r = 1; r < report.ranks.size(); ++r)
    if (durations[report.ranks.number_of(r)] > durations[report.ranks.number_of(slowest)])
      slowest = r;
  return slowest;
}

void fill_time(Result& result, const RankReport& rank) {
  Window window = window_of(rank);
  if (result.input.takes_turns)  // as many steps as all took on average, in the same time
    window.steps = std::max(1.0, static_cast<double>(result.input.subject.steps - 1));
  result.step_time_s = seconds(window.duration) / window.steps;
  if (rank.steps.empty()) return;
  const TimeParts last = rank.steps.back().parts;
  const TimeParts first = rank.steps.size() > 1 ? rank.steps.front().parts : TimeParts{};
  const auto part = [&](Time TimeParts::*member) {
    return seconds(last.*member - first.*member) / window.steps;
  };
  result.compute_s = part(&TimeParts::compute);
  result.exposed_communication_s = part(&TimeParts::exposed_communication);
  result.bubble_s = part(&TimeParts::bubble);
  result.overhead_s = part(&TimeParts::overhead);
  result.idle_s = part(&TimeParts::idle);
  result.work = work_per_step(rank.work, window.steps);
  result.native = native_per_step(rank.native, window.steps);
}

double executed_flops_per_step(const ResultInput& in, const RunReport& report) {
  double executed = -in.evaluation_flops.value;
  for (const RankReport& rank : report.ranks) executed += rank.matrix_flops.value;
  return executed / static_cast<double>(in.subject.steps);
}

// Steps with as many samples as the algorithm liked: by what was executed.
void scale_to_executed(ResultInput& in, const RunReport& report) {
  if (!in.planned_flops_per_step || in.planned_flops_per_step->value <= 0) return;
  const double scale = executed_flops_per_step(in, report) / in.planned_flops_per_step->value;
  in.tokens_per_step = std::llround(static_cast<double>(in.tokens_per_step) * scale);
  in.flops_per_step = in.flops_per_step * scale;
  in.full_flops_per_step = in.full_flops_per_step * scale;
}

// Share of the counted steps in which a rank computes; nothing where they took no time.
std::optional<double> busy_share(const RankReport& rank) {
  const Time duration = window_of(rank).duration;
  if (rank.steps.empty() || duration == Time{}) return {};
  const TimeParts first = rank.steps.size() > 1 ? rank.steps.front().parts : TimeParts{};
  return seconds(rank.steps.back().parts.compute - first.compute) / seconds(duration);
}

void fill_workers(Result& result, const RunReport& report) {
  double all = 0;
  for (const auto& steps : result.input.samples)
    for (const std::int64_t samples : steps) all += static_cast<double>(samples);
  for (std::size_t r = 0; r < result.input.samples.size(); ++r) {
    double own = 0;
    for (const std::int64_t samples : result.input.samples[r]) own += static_cast<double>(samples);
    result.workers.push_back({own / all, 1 - busy_share(report.ranks[r]).value_or(0)});
  }
}

void fill_busy(Result& result, const RunReport& report) {
  std::vector<std::optional<double>> shares;  // by report
  for (const RankReport& rank : report.ranks.different()) shares.push_back(busy_share(rank));
  std::vector<double> busy;
  for (std::size_t r = 0; r < report.ranks.size(); ++r)
    if (const std::optional<double>& share = shares[report.ranks.number_of(r)])
      busy.push_back(*share);
  if (busy.empty()) return;
  std::sort(busy.begin(), busy.end());
  result.busy_least = busy.front();
  result.busy_median = quantile(busy, 0.5);
  result.busy_most = busy.back();
}

void fill_rates(Result& result, const RunReport& report) {
  const ResultInput& in = result.input;
  if (result.step_time_s <= 0) return;
  result.tokens_per_s = static_cast<double>(in.tokens_per_step) / result.step_time_s;
  result.tokens_per_s_per_gpu = result.tokens_per_s / in.ranks;
  if (in.flops_per_step.value > 0)
    result.tflops_per_gpu = in.flops_per_step.value / result.step_time_s / in.ranks * 1e-12;
  if (!in.peak) return;
  const double executed = executed_flops_per_step(in, report);
  const double recomputed = executed - in.full_flops_per_step.value;
  result.peak_tflops = in.peak->value / in.ranks * 1e-12;
  result.mfu = in.flops_per_step.value / (in.peak->value * result.step_time_s);
  result.hfu = (in.flops_per_step.value + recomputed) / (in.peak->value * result.step_time_s);
}

void fill_communication(Result& result, const RankReport& rank) {
  const double steps = static_cast<double>(result.input.subject.steps);
  for (const ChannelReport& channel : rank.channels) {
    if (channel.use.calls == 0) continue;
    result.communication.push_back({channel.group, name(channel.use.kind), channel.lane,
                                    static_cast<double>(channel.use.calls) / steps,
                                    static_cast<double>(channel.use.bytes.value) / steps,
                                    seconds(channel.use.busy) / steps,
                                    seconds(channel.use.exposed) / steps});
  }
}

}  // namespace

double quantile(const std::vector<double>& ascending, double q) {
  const double place = q * static_cast<double>(ascending.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, ascending.size() - 1);
  return ascending[below] + (ascending[above] - ascending[below]) * (place - std::floor(place));
}

void Result::add_replicas(std::vector<double> others) {
  if (others.empty()) return;
  replica_steps_s = std::move(others);
  replica_steps_s.push_back(step_time_s);
  std::sort(replica_steps_s.begin(), replica_steps_s.end());
}

void Result::add_limits(std::vector<BottleneckRow> rows) {
  if (rows.empty()) return;
  if (bubble_s > 0) rows.push_back({"pipeline bubble", "free", step_time_s - bubble_s});
  for (BottleneckRow& row : rows)
    if (mfu && row.step_time_s > 0)
      row.mfu_points = 100 * *mfu * (step_time_s / row.step_time_s - 1);
  std::stable_sort(rows.begin(), rows.end(), [](const BottleneckRow& a, const BottleneckRow& b) {
    return a.step_time_s < b.step_time_s;
  });
  limits = std::move(rows);
}

Result make_result(ResultInput input, const RunReport& report) {
  Result result;
  result.input = std::move(input);
  scale_to_executed(result.input, report);
  const RankReport& slowest = report.ranks[slowest_rank(report)];
  fill_time(result, slowest);
  auto &low = result.input.step_time_low_s, &high = result.input.step_time_high_s;
  if (low) low = std::min(*low, result.step_time_s);
  if (high) high = std::max(*high, result.step_time_s);
  fill_rates(result, report);
  fill_communication(result, slowest);
  fill_busy(result, report);
  fill_workers(result, report);
  fill_curve(result, report);
  for (std::size_t r = 0; r < report.ranks.size(); ++r) {
    if (r > 0 && report.ranks[r].peak <= result.peak_bytes) continue;
    result.memory_rank = static_cast<int>(r);
    result.peak_bytes = report.ranks[r].peak;
    result.by_label = report.ranks[r].peak_by_label;
  }
  result.pool = report.pool;
  result.activities = report.activities;
  result.flows = report.flows;
  for (std::string& sentence : advice(result)) result.input.warnings.push_back(std::move(sentence));
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  result.peak_rss_bytes = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
  result.version = version();
  result.build = build();
  return result;
}

}  // namespace orrery::cli
