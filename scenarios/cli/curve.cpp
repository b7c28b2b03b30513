#include "scenarios/cli/curve.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace orrery::cli {

namespace {

// Of all workers together, one step of theirs.
struct Step {
  double loss = 0, ended = 0;
  int losses = 0;
  std::int64_t samples = 0;
};

// A step of one worker.
struct OwnStep {
  Time ended;
  std::size_t rank = 0;
  double loss = 0;
  std::int64_t samples = 0;
};

// Numbers of the steps that a rank took, in order: where it notes losses, those of its losses, as a
// worker may have joined later, not have stayed, or have left out steps of which the others had
// met.
std::vector<std::int64_t> numbers(const ResultInput& in, const RankReport& rank) {
  std::vector<std::int64_t> all(rank.steps.size());
  std::iota(all.begin(), all.end(), first_step(in, rank));
  if (rank.losses.size() != all.size()) return all;
  std::size_t at = 0;
  for (const auto& [number, loss] : rank.losses) all[at++] = number;
  return all;
}

// When the last worker had ended the step of this number.
double last_end(const ResultInput& in, const RunReport& report, std::int64_t number) {
  double ended = 0;
  for (const RankReport& rank : report.ranks) {
    const std::vector<std::int64_t> own = numbers(in, rank);
    if (const auto at = std::ranges::find(own, number); at != own.end())
      ended = std::max(ended,
                       rank.steps[static_cast<std::size_t>(at - own.begin())].at.seconds().value);
  }
  return ended;
}

std::vector<Step> together(const ResultInput& in, const RunReport& report) {
  std::vector<Step> steps(static_cast<std::size_t>(std::max<std::int64_t>(0, in.subject.steps)));
  for (std::size_t r = 0; r < report.ranks.size(); ++r) {
    const RankReport& rank = report.ranks[r];
    const std::int64_t first = in.takes_turns ? first_step(in, rank) : in.steps_before;
    const auto step_of = [&](std::int64_t number) -> Step& {
      const auto at = static_cast<std::size_t>(number - first);
      steps.resize(std::max(steps.size(), at + 1));
      return steps[at];
    };
    const std::vector<std::int64_t> own = numbers(in, rank);
    for (std::size_t s = 0; s < own.size(); ++s) {
      Step& step = step_of(own[s]);
      step.ended = std::max(step.ended, rank.steps[s].at.seconds().value);
      if (!in.samples.empty() && s < in.samples[r].size()) step.samples += in.samples[r][s];
    }
    for (const auto& [number, loss] : rank.losses) {
      Step& step = step_of(number);
      step.loss += loss;
      ++step.losses;
    }
  }
  if (in.samples.empty())
    for (Step& step : steps) step.samples = in.samples_per_step;
  return steps;
}

std::vector<Step> in_order(const ResultInput& in, const RunReport& report) {
  std::vector<OwnStep> all;
  for (std::size_t r = 0; r < report.ranks.size(); ++r) {
    const RankReport& rank = report.ranks[r];
    auto loss = rank.losses.begin();
    for (std::size_t s = 0; s < rank.steps.size() && loss != rank.losses.end(); ++s, ++loss)
      all.push_back({rank.steps[s].at, r, loss->second, in.samples.at(r).at(s)});
  }
  std::sort(all.begin(), all.end(), [](const OwnStep& a, const OwnStep& b) {
    return std::tie(a.ended, a.rank) < std::tie(b.ended, b.rank);
  });
  const std::size_t workers = report.ranks.size();
  std::vector<Step> steps(std::max<std::size_t>(1, all.size() / workers));
  for (std::size_t i = 0; i < all.size(); ++i) {
    Step& step = steps[std::min(i / workers, steps.size() - 1)];
    step.loss += all[i].loss;
    ++step.losses;
    step.ended = all[i].ended.seconds().value;
    step.samples += all[i].samples;
  }
  return steps;
}

}  // namespace

std::int64_t first_step(const ResultInput& in, const RankReport& rank) {
  return rank.losses.empty() ? in.steps_before : rank.losses.begin()->first;
}

void fill_curve(Result& result, const RunReport& report) {
  const ResultInput& in = result.input;
  bool losses = false;
  for (const RankReport& rank : report.ranks) losses = losses || !rank.losses.empty();
  if (!losses) return;
  double sent = 0;  // by all ranks
  for (const RankReport& rank : report.ranks)
    for (const ChannelReport& channel : rank.channels)
      sent += static_cast<double>(channel.use.bytes.value);
  const double sent_each = sent / static_cast<double>(report.ranks.size()) /
                           static_cast<double>(std::max<std::int64_t>(1, in.subject.steps));
  const std::vector<Step> steps = together(in, report);
  for (const Step& step : steps)
    if (step.losses > 0) result.loss.push_back(step.loss / step.losses);
  std::int64_t samples = 0;
  for (const Step& step : in.takes_turns ? in_order(in, report) : steps) {
    if (step.losses == 0) continue;
    samples += step.samples;
    result.curve.loss.push_back(step.loss / step.losses);
    const std::size_t done = result.curve.loss.size();
    result.curve.seconds.push_back(step.ended);
    result.curve.samples.push_back(samples);
    result.curve.bytes_per_rank.push_back(
        done <= in.sent.size() ? in.sent[done - 1] : sent_each * static_cast<double>(done));
  }
  for (ConsensusRow& row : result.input.loss_consensus)
    row.seconds = last_end(in, report, row.step - 1);
}

}  // namespace orrery::cli
