// Parameters that are gathered for their passes and given up again: how the third stage of ZeRO
// lives with a fraction of them. See fsdp.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "algorithms/narrow_gather.hpp"
#include "algorithms/replica.hpp"

namespace orrery {

// What becomes of a gathered group after its forward: it stays for the backward, is freed, or each
// rank keeps 1/m of it, from which m ranks gather it again.
enum class Reshard : std::uint8_t { no, yes, to_group };

struct GatherOptions {
  int prefetch = 1;  // groups gathered ahead of the one that computes
  int limit = 2;     // groups whole at once, the one that computes included
  // Absent: yes and true, and under a pipeline no and false.
  std::optional<Reshard> after_forward{};
  std::optional<bool> after_backward{};  // false: groups stay until the step's last micro-batch
  // As PyTorch's FSDP2 does: groups are gathered into a buffer, from which each parameter is copied
  // to its own; the first group, of the root unit, stays from its forward to its backward.
  bool per_parameter = false;
  Axes group{};  // the m ranks of Reshard::to_group; of experts those but for the expert axis
  bool narrow = false;  // matrices of layers are gathered in 8 bits, not with Reshard::to_group
};

class GatheredParameters {
 public:
  GatheredParameters(Replica& replica, const GatherOptions& options);
  // Called around a unit's passes, as ShardingHooks are.
  void before(const Unit& unit);
  void after(const Unit& unit, Pass pass);
  void updated();  // shards have new values
  // What the gathers of a group send per step of k micro-batches without a pipeline, and what is
  // sent besides.
  Bytes sent(const ParameterGroup& group, int k) const;
  Bytes sent_besides() const { return narrow_ ? narrow_->sent_besides() : Bytes(0); }

 private:
  // What belongs to a group of parameters.
  struct State {
    // Of per_parameter, until it is copied out of; or messages in 8 bits, by part.
    Tensor buffer;
    std::vector<Tensor> messages;
    Event gathered;
    std::vector<Tensor> kept;  // this rank's of Reshard::to_group, by part
    Event kept_at;
  };
  bool stays(const ParameterGroup& group) const;  // from the forward to the backward, in any case
  bool under_way(const ParameterGroup& group) const {  // gathered, but not yet copied out
    return state_of(group).buffer || !state_of(group).messages.empty();
  }
  void gather(ParameterGroup& group);
  void gather_narrow(ParameterGroup& group);
  void copy_out(ParameterGroup& group);
  void gather_part(const Tensor& whole, Tensor part, Channel* channel);
  void release(ParameterGroup& group, bool keep_part);
  void prefetch(const Unit& unit);
  State& state_of(const ParameterGroup& group) { return states_[number_of(group)]; }
  const State& state_of(const ParameterGroup& group) const { return states_[number_of(group)]; }
  std::size_t number_of(const ParameterGroup& group) const {
    return static_cast<std::size_t>(&group - flat_.groups().data());
  }
  Tensor whole(Stream& stream, const ParameterGroup& group, const char* name) const;

  Replica& replica_;
  FlatParameters& flat_;
  GatherOptions options_;
  Reshard after_forward_;
  bool after_backward_;
  Stream& stream_;
  // Of all but experts, of experts; null: one rank has them all.
  std::array<Channel*, 2> channel_{}, group_channel_{};
  std::unique_ptr<NarrowGather> narrow_;
  std::vector<State> states_;
  int whole_ = 0;               // groups gathered now, but for shared ones
  std::deque<Event> released_;  // last uses of groups that no gather has waited for yet
  Event updated_;
  std::optional<Event> copied_;  // out of the last buffer
};

}  // namespace orrery
