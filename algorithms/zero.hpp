// Data parallelism that divides optimizer state, gradients and parameters. See zero.cpp.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/codecs/compressed_mean.hpp"
#include "algorithms/fsdp.hpp"

namespace orrery {

struct ZeroOptions {
  int stage = 3;  // 1, 2 or 3
  // The ranks that divide; others of gradient_axes repeat.
  Axes over{Axis::expert, Axis::shard, Axis::context};
  Bytes group{0};              // gradients reduced at once, in whole blocks; 0: a block each
  bool reduce_each = false;    // micro-batch; else gradients add up until the last one
  bool overlap_reduce = true;  // reductions run beside the backward
  bool overlap_gather = true;  // stages 1 and 2: updated parameters are awaited by their blocks
  GatherOptions gather{};      // stage 3
  std::optional<Dtype> communication{};  // of gradients on the wire; absent: as they are added up
  std::shared_ptr<const Codec> codec{};  // or they go through one, and are added in fp32
  double clip_norm = 0;                  // 0: gradients are not clipped

  Sharding sharding() const { return {stage, over, group, gather.narrow}; }  // for the replica
};

class Zero : public Algorithm, private ShardingHooks {
 public:
  // The replica was made with options.sharding().
  Zero(Replica& replica, const ZeroOptions& options);
  StepEnd issue(Progress& progress) override;
  void await_weights() override;
  void weights_changed(std::int64_t begin, std::int64_t end) override;
  Bytes sent_after_change(std::int64_t begin, std::int64_t end) const override;
  std::optional<Bytes> sent(std::int64_t steps) const override;  // not told under a pipeline
  void visit(Archive& archive) override;

 private:
  // What belongs to a group of parameters.
  struct State {
    Event updated;         // stages 1 and 2: its whole has new values
    bool reduced = false;  // its shard holds gradients of this step
  };
  void before(const Unit& unit, Pass pass) override;
  void after(const Unit& unit, Pass pass) override;
  void gradients_accumulated(const Unit& unit) override;
  void gradients_ready(const Unit& unit) override;
  void code(bool experts);
  void open_gradients(ParameterGroup& group);
  void reduce(const Unit& unit);
  void gather(ParameterGroup& group);
  Bytes sent_in_gather(const ParameterGroup& group) const;
  bool gathers_anew(const ParameterGroup& group, std::int64_t begin, std::int64_t end) const;
  void reduce_scatter(const Tensor& whole, const DividedPart& part, bool add);
  void await_reductions();
  Tensor buffer(std::int64_t elements, Dtype dtype);
  Bytes sent_in_reduction(const DividedPart& part) const;
  State& state_of(const ParameterGroup& group) {
    return states_[static_cast<std::size_t>(&group - flat_.groups().data())];
  }

  Replica& replica_;
  FlatParameters& flat_;
  ZeroOptions options_;
  std::vector<State> states_;
  std::unique_ptr<GatheredParameters> gathered_;  // stage 3
  // Null where there is nobody to communicate with.
  Stream *scatters_ = nullptr, *gathers_ = nullptr, *averages_ = nullptr;
  // Of all but experts, of experts.
  std::array<Channel*, 2> scatter_{}, gather_{};
  std::array<std::unique_ptr<CompressedMean>, 2> coded_{};  // in place of reduce-scatters
  Channel* average_ = nullptr;
  std::deque<Event> reducing_;  // under way, of whole gradients that are given up
};

}  // namespace orrery
