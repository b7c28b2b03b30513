#include "algorithms/pipeline/timeline.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "backend/core/error.hpp"

namespace orrery {

double Timeline::makespan() const {
  double last = 0;
  for (const auto& tasks : devices)
    if (!tasks.empty()) last = std::max(last, tasks.back().end);
  return last;
}

double Timeline::longest_span() const {
  double longest = 0;
  for (const auto& tasks : devices)
    if (!tasks.empty()) longest = std::max(longest, tasks.back().end - tasks.front().start);
  return longest;
}

double Timeline::busy(int device) const {
  double sum = 0;
  for (const TimedTask& t : devices[static_cast<std::size_t>(device)])
    if (!t.task.paired) sum += t.end - t.start;  // of a pair the second has the time of both
  return sum;
}

namespace {

class ListSimulator {
 public:
  ListSimulator(const PipelineSchedule& schedule, const std::vector<TaskTimes>& times, double pair)
      : s_(schedule),
        times_(times),
        pair_(pair),
        lists_(schedule.warm_up.empty() ? schedule.tasks : schedule.warm_up) {
    const auto stages = static_cast<std::size_t>(s_.stages),
               all = stages * static_cast<std::size_t>(s_.micro_batches);
    forward_.assign(all, -1);
    backward_.assign(all, -1);
    if (!s_.warm_up.empty())
      for (std::size_t d = 0; d < lists_.size(); ++d)
        lists_[d].insert(lists_[d].end(), s_.tasks[d].begin(), s_.tasks[d].end());
    for (TaskList& list : lists_)
      std::erase_if(list,
                    [this](const PipelineTask& t) { return t.micro_batch >= s_.micro_batches; });
    out_.devices.resize(lists_.size());
  }

  Timeline run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (std::size_t d = 0; d < lists_.size(); ++d)
        while (start_next(static_cast<int>(d))) moved = true;
    }
    for (std::size_t d = 0; d < lists_.size(); ++d)
      if (out_.devices[d].size() < lists_[d].size()) stuck(static_cast<int>(d));
    return std::move(out_);
  }

 private:
  std::vector<double>& ends(const PipelineTask& t) {
    return t.work == Work::forward ? forward_ : backward_;
  }
  std::size_t index(int device, const PipelineTask& t) const {
    const Chunk& c = s_.chunks[static_cast<std::size_t>(device)][static_cast<std::size_t>(t.chunk)];
    return static_cast<std::size_t>(c.stage * s_.micro_batches + t.micro_batch);
  }
  double duration(int device, const PipelineTask& t) const {
    const Chunk& c = s_.chunks[static_cast<std::size_t>(device)][static_cast<std::size_t>(t.chunk)];
    const TaskTimes& own =
        times_.size() == 1 ? times_[0] : times_[static_cast<std::size_t>(c.stage)];
    switch (t.work) {
      case Work::forward:
        return own.forward;
      case Work::backward_input:
        return own.backward_input;
      case Work::backward_weight:
        return own.backward_weight;
      case Work::backward:
        break;
    }
    return own.backward_input + own.backward_weight;
  }
  // When the task's input is there; negative: it is not known yet.
  double ready(int device, const PipelineTask& t) {
    if (t.work == Work::backward_weight) return 0;
    double at = 0;
    if (t.work != Work::forward && (at = forward_[index(device, t)]) < 0) return -1;
    const Holder from = s_.source(device, t);
    if (!from) return at;
    const double sent = ends(t)[index(from.device, {t.work, from.chunk, t.micro_batch})];
    if (sent < 0) return -1;
    return std::max(at, sent + (from.device == device ? 0 : times_[0].communication));
  }
  // Starts the device's next task, or next two.
  bool start_next(int d) {
    const auto device = static_cast<std::size_t>(d);
    const std::size_t at = out_.devices[device].size();
    if (at == lists_[device].size()) return false;
    const std::size_t count = lists_[device][at].paired ? 2 : 1;
    double start = at == 0 ? 0 : out_.devices[device].back().end, time = 0;
    for (std::size_t i = at; i < at + count; ++i) {
      const double input = ready(d, lists_[device][i]);
      if (input < 0) return false;
      start = std::max(start, input);
      time += duration(d, lists_[device][i]);
    }
    if (count == 2 && pair_ > 0) time = pair_;
    for (std::size_t i = at; i < at + count; ++i) {
      const PipelineTask& t = lists_[device][i];
      out_.devices[device].push_back({t, start, start + time});
      if (t.work != Work::backward_weight) ends(t)[index(d, t)] = start + time;
    }
    return true;
  }
  [[noreturn]] void stuck(int d) const {
    const PipelineTask& t =
        lists_[static_cast<std::size_t>(d)][out_.devices[static_cast<std::size_t>(d)].size()];
    throw Error(
        Category::deadlock,
        fmt::format("schedule {} on {} devices with {} micro-batches: device {} waits for "
                    "ever for the input of {} {} of chunk {}",
                    s_.name, s_.devices, s_.micro_batches, d,
                    t.work == Work::forward ? "forward" : "backward", t.micro_batch, t.chunk));
  }

  const PipelineSchedule& s_;
  const std::vector<TaskTimes>& times_;
  double pair_;
  std::vector<TaskList> lists_;
  std::vector<double> forward_, backward_;  // end, by stage and micro-batch; -1: not yet
  Timeline out_;
};

}  // namespace

Timeline lay_out(const PipelineSchedule& schedule, const std::vector<TaskTimes>& times,
                 double pair) {
  return ListSimulator(schedule, times, pair).run();
}

std::vector<double> peak_activations(const PipelineSchedule& schedule, double for_weights) {
  std::vector<double> peaks;
  for (std::size_t d = 0; d < schedule.tasks.size(); ++d) {
    double held = 0, most = 0;
    const auto add = [&](const TaskList& tasks) {
      for (const PipelineTask& t : tasks) {
        held += t.work == Work::forward          ? 1
                : t.work == Work::backward       ? -1
                : t.work == Work::backward_input ? for_weights - 1
                                                 : -for_weights;
        most = std::max(most, held);
      }
    };
    if (!schedule.warm_up.empty()) add(schedule.warm_up[d]);
    add(schedule.tasks[d]);
    peaks.push_back(most);
  }
  return peaks;
}

void check(const PipelineSchedule& schedule) {
  const auto wrong = [&](std::size_t device, const PipelineTask& t, const char* what) {
    throw Error(Category::invalid_program,
                fmt::format("schedule {}, device {}, chunk {}, micro-batch {}: {}", schedule.name,
                            device, t.chunk, t.micro_batch, what));
  };
  for (std::size_t d = 0; d < schedule.tasks.size(); ++d) {
    std::set<std::tuple<Work, int, int>> done;
    TaskList tasks = schedule.warm_up.empty() ? TaskList{} : schedule.warm_up[d];
    tasks.insert(tasks.end(), schedule.tasks[d].begin(), schedule.tasks[d].end());
    for (const PipelineTask& t : tasks) {
      if (!done.insert({t.work, t.chunk, t.micro_batch}).second) wrong(d, t, "twice");
      const auto had = [&](Work work) { return done.contains({work, t.chunk, t.micro_batch}); };
      if (t.work != Work::forward && !had(Work::forward)) wrong(d, t, "backward before forward");
      if (t.work == Work::backward_weight && !had(Work::backward_input))
        wrong(d, t, "weight gradients before the input's");
      if (t.work == Work::backward_input && had(Work::backward)) wrong(d, t, "backward twice");
    }
    for (std::size_t c = 0; c < schedule.chunks[d].size(); ++c) {
      const auto [first, last] = schedule.micro_batches_of(schedule.chunks[d][c].pipe);
      for (int i = first; i < last; ++i) {
        const int chunk = static_cast<int>(c);
        if (!done.contains({Work::backward, chunk, i}) &&
            !done.contains({Work::backward_weight, chunk, i}))
          wrong(d, {Work::backward, chunk, i}, "no backward");
      }
    }
  }
  lay_out(schedule);
}

int transfers_under_way(const PipelineSchedule& schedule) {
  const Timeline timeline = lay_out(schedule);
  std::map<std::tuple<bool, int, int, int>, double>
      taken;  // start of the task that takes a message
  for (int d = 0; d < schedule.devices; ++d)
    for (const TimedTask& t : timeline.devices[static_cast<std::size_t>(d)])
      taken[{t.task.work == Work::forward, d, t.task.chunk, t.task.micro_batch}] = t.start;
  std::size_t most = 0;
  for (int d = 0; d < schedule.devices; ++d) {
    const auto& tasks = timeline.devices[static_cast<std::size_t>(d)];
    std::map<std::pair<bool, int>, std::vector<double>> sent;  // by edge: when each is taken
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      const PipelineTask& t = tasks[i].task;
      const Holder to = schedule.target(d, t);
      if (!to || to.device == d) continue;
      const bool forward = t.work == Work::forward;
      auto& edge = sent[{forward, to.device}];
      if (i + 1 < tasks.size())
        std::erase_if(edge, [&](double start) { return start <= tasks[i + 1].start; });
      edge.push_back(taken.at({forward, to.device, to.chunk, t.micro_batch}));
      most = std::max(most, edge.size());
    }
  }
  return static_cast<int>(most);
}

}  // namespace orrery
