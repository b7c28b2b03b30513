// The automatic scheduler of Qi et al. 2024 (ICLR, arXiv 2401.10241, section 3.1), after the list
// heuristic of sail-sg/zero-bubble-pipeline-parallelism,
// megatron/core/pipeline_parallel/zerobubble/scheduler/zb.py.
//
//   for each micro-batch i:
//     first:  as many forwards per stage as memory holds and fit before its first gradient is back
//     then:   a forward on every stage that wants one, weight gradients before it while they fit
//             into the wait for its input, or where memory asks for them
//             an input gradient on every stage from the last on, weight gradients before it alike
//   finally:  the weight gradients left
//
// Three choices, each either way; the order with the shortest longest span of a device is kept.
#include <algorithm>
#include <optional>

#include "algorithms/pipeline/task_order.hpp"
#include "backend/core/error.hpp"

namespace orrery {

namespace {

struct Choices {
  bool bubble_before_first;  // no forward that would end after the first gradient could be back
  bool backward_first;       // hold forwards back when the next stage has enough of them
  bool fill_any_bubble;      // a weight gradient even into a wait that the longest one hides
};

class ListHeuristic {
 public:
  ListHeuristic(const PipelineShape& shape, double limit, const Choices& choices)
      : p_(shape.devices),
        m_(shape.micro_batches),
        t_(shape.times),
        for_weights_(shape.for_weights),
        limit_(limit),
        choices_(choices),
        devices_(static_cast<std::size_t>(p_)) {}

  // False when the limit cannot be kept.
  bool run() {
    begin();
    for (int i = 1; i < m_; ++i)
      if (!forwards() || !backwards()) return false;
    for (Device& d : devices_)
      while (d.weights < m_) weight(d);
    return true;
  }
  double longest_span() const {
    double longest = 0;
    for (const Device& d : devices_) longest = std::max(longest, d.end - d.start);
    return longest;
  }
  std::vector<TaskList> take() {
    std::vector<TaskList> all;
    for (Device& d : devices_) all.push_back(std::move(d.tasks));
    return all;
  }

 private:
  struct Device {
    TaskList tasks;
    double start = 0, end = 0, held = 0, waited = 0;
    int weights = 0;
    std::vector<double> forward, backward;  // when they end, by micro-batch
    int forwards() const { return static_cast<int>(forward.size()); }
    int backwards() const { return static_cast<int>(backward.size()); }
    bool due() const { return weights < backwards(); }
  };
  Device& at(int j) { return devices_[static_cast<std::size_t>(j)]; }

  // When the input of device j's next forward or input gradient is there.
  double forward_input(int j) {
    return j == 0
               ? 0
               : at(j - 1).forward[static_cast<std::size_t>(at(j).forwards())] + t_.communication;
  }
  double backward_input(int j) {
    return j == p_ - 1
               ? 0
               : at(j + 1).backward[static_cast<std::size_t>(at(j).backwards())] + t_.communication;
  }
  void wait_for(Device& d, double input) {
    if (d.tasks.empty()) d.start = input;
    if (!d.tasks.empty()) d.waited += std::max(0.0, input - d.end);
    d.end = std::max(d.end, input);
  }
  void forward(int j) {
    Device& d = at(j);
    wait_for(d, forward_input(j));
    d.tasks.push_back({Work::forward, 0, d.forwards()});
    d.end += t_.forward;
    d.held += 1;
    d.forward.push_back(d.end);
  }
  void backward(int j) {
    Device& d = at(j);
    wait_for(d, backward_input(j));
    d.tasks.push_back({Work::backward_input, 0, d.backwards()});
    d.end += t_.backward_input;
    d.held -= 1 - for_weights_;
    d.backward.push_back(d.end);
  }
  void weight(Device& d) {
    d.tasks.push_back({Work::backward_weight, 0, d.weights++});
    d.end += t_.backward_weight;
    d.held -= for_weights_;
  }
  double longest_wait() const {
    double longest = 0;
    for (const Device& d : devices_) longest = std::max(longest, d.waited);
    return longest;
  }
  bool fits(double held) const { return held <= limit_ + 1e-9; }
  // Weight gradients until `more` fits.
  bool make_room(Device& d, double more) {
    while (!fits(d.held + more)) {
      if (!d.due()) return false;
      weight(d);
    }
    return true;
  }
  // Weight gradients into the wait for an input that comes at `input`.
  void fill(Device& d, double input) {
    while (d.due() && d.end + t_.backward_weight <= input) weight(d);
    if (!d.due() || d.end >= input) return;
    if (choices_.fill_any_bubble || input - d.end > longest_wait() - d.waited) weight(d);
  }

  // All forwards before the first gradients, and these.
  void begin() {
    for (int j = 0; j < p_; ++j) forward(j);
    std::vector<int> more(static_cast<std::size_t>(p_), 0);
    double back = at(p_ - 1).end + t_.backward_input;  // when the stage behind has the gradient
    for (int j = p_ - 2; j >= 0; --j) {
      double held = at(j).held, end = at(j).end;
      int& count = more[static_cast<std::size_t>(j)];
      const double until = back + t_.communication;
      while (at(j).forwards() + count < m_ && fits(held + 1) &&
             (choices_.bubble_before_first ? end + t_.forward <= until : end < until)) {
        held += 1;
        end += t_.forward;
        ++count;
      }
      back = std::max(end, until) + t_.backward_input;
    }
    for (std::size_t j = 1; j < more.size(); ++j)  // the stage before must be ahead
      while (more[j] > 0 && more[j] >= more[j - 1] && 1 + more[j] < m_) --more[j];
    for (int j = 0; j < p_; ++j)
      for (int k = 0; k < more[static_cast<std::size_t>(j)]; ++k) forward(j);
    for (int j = p_ - 1; j >= 0; --j) backward(j);
  }

  // The next stage is two forwards behind already: would one more make this one late for its
  // backward?
  bool hold_back(int j) {
    if (!choices_.backward_first || j + 1 == p_ || at(j).forwards() < at(j + 1).forwards() + 2)
      return false;
    const Device& d = at(j);
    const double gradient_back = at(j + 1).end + t_.forward + t_.backward_input + t_.communication;
    if (d.end >= gradient_back) return true;
    double held = d.held + 1, end = d.end + t_.forward;
    for (int w = d.weights; !fits(held) && w < d.backwards(); ++w) {
      held -= for_weights_;
      end += t_.backward_weight;
    }
    return end > gradient_back && gradient_back - d.end <= longest_wait() - d.waited;
  }

  bool forwards() {
    std::vector<bool> wanted(static_cast<std::size_t>(p_));
    for (int j = 0; j < p_; ++j)
      wanted[static_cast<std::size_t>(j)] = at(j).forwards() < m_ && !hold_back(j);
    for (int j = p_ - 2; j >= 0; --j)
      if (!wanted[static_cast<std::size_t>(j + 1)]) wanted[static_cast<std::size_t>(j)] = false;
    for (int j = 0; j < p_; ++j) {
      if (!wanted[static_cast<std::size_t>(j)]) continue;
      if (!make_room(at(j), 1)) return false;
      if (j > 0) fill(at(j), forward_input(j));
      forward(j);
    }
    return true;
  }

  bool backwards() {
    for (int j = p_ - 1; j >= 0; --j) {
      if (!make_room(at(j), for_weights_ - 1)) return false;
      if (j + 1 < p_) fill(at(j), backward_input(j));
      if (j == 0 && at(j).forwards() == m_)
        while (at(j).due()) weight(at(j));
      backward(j);
    }
    return true;
  }

  int p_, m_;
  TaskTimes t_;
  double for_weights_, limit_;
  Choices choices_;
  std::vector<Device> devices_;
};

}  // namespace

PipelineSchedule zero_bubble_auto(const PipelineShape& shape) {
  PipelineSchedule s("zb-auto", shape, one_stage_each(shape.devices));
  const double limit = shape.activation_limit > 0 ? shape.activation_limit : shape.devices;
  std::optional<double> best;
  for (const bool bubble : {true, false})
    for (const bool backward : {true, false})
      for (const bool fill : {true, false}) {
        ListHeuristic heuristic(shape, limit, {bubble, backward, fill});
        if (!heuristic.run() || (best && heuristic.longest_span() >= *best)) continue;
        best = heuristic.longest_span();
        s.tasks = heuristic.take();
      }
  ORRERY_ASSERT(best.has_value(), "a limit of one micro-batch can be kept");
  return s;
}

}  // namespace orrery
