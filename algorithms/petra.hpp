// Stages of a model, each on a rank, that train without waiting for each other. See petra.cpp.
#pragma once

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/message_line.hpp"
#include "algorithms/optimizers/optimizer_spec.hpp"
#include "algorithms/stage_passes.hpp"

namespace orrery {

struct PetraOptions {
  OptimizerSpec optimizer;
  std::int64_t engines = 1;
};
void describe(Fields<PetraOptions>& f);

// How a stage's handlers are chosen and what they keep; PETRA is one of several.
struct DecouplingRules {
  StageRules stage;
  bool synchronous = false;   // one batch is under way at a time: backpropagation
  bool two_engines = false;   // forwards and backwards run side by side
  bool local_losses = false;  // every stage has one; nothing comes back
};

class Petra : public Algorithm {
 public:
  Petra(Replica& replica, const PetraOptions& options);
  Petra(Replica& replica, const DecouplingRules& rules);

  StepEnd issue(Progress& progress) override;
  void finish() override;
  std::optional<Bytes> sent(std::int64_t steps) const override;
  // Error{config} while batches are under way: what their forwards used is not kept.
  void visit(Archive& archive) override;

  // Between the forward of a batch and its backward, how many updates this stage makes, at most:
  // 2 (J - j) updates of one batch each.
  std::int64_t credit() const { return credit_; }
  // Is told at each backward how many updates that was.
  void watch_delays(std::function<void(std::int64_t)> watcher) { delay_ = std::move(watcher); }
  // Of the step issued last: the network's on the last stage, a stage's own by local losses.
  Tensor loss() const { return stage_.loss(); }

 private:
  enum class Handler : std::uint8_t { forward, backward };
  struct Engine {
    Stream* stream = nullptr;
    Event end{};  // of the last handler
    bool busy = false;
  };
  void open_lines();
  Handler next(std::int64_t all);
  // In the order of schedule `petra`, where the replica has it; else as messages arrive.
  bool follows_schedule() const { return replica_.schedule().name == "petra"; }
  Handler next_in_schedule(std::int64_t all);
  bool may_forward(std::int64_t all) const;
  void forward(const Progress& progress);
  void backward();
  void update();
  std::int64_t done() const { return backwards_ - (backward_->busy ? 1 : 0); }

  Replica& replica_;
  DecouplingRules rules_;
  StagePasses stage_;
  int j_ = 1, stages_ = 1;  // this stage and all, from 1
  std::int64_t credit_ = 1, batches_per_step_ = 1;
  std::vector<Engine> engines_;
  Engine* forward_ = nullptr;
  Engine* backward_ = nullptr;
  MessageLine inputs_, outputs_, returned_, returns_;
  std::int64_t forwards_ = 0, backwards_ = 0;  // batches whose handlers have been issued
  std::int64_t updates_ = 0;
  std::deque<std::int64_t> updates_before_;  // of batches under way
  std::function<void(std::int64_t)> delay_;  // null: nobody watches
  bool begun_ = false;
  std::deque<PipelineTask> order_;  // of the schedule, that is still to come
  Stream* gradients_ = nullptr;     // null: nobody to average with
  Channel* data_ = nullptr;
};

}  // namespace orrery
