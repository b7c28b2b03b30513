// Workers that meet now and then: what local SGD, SlowMo, DiLoCo and their kind have in common.
//
// A worker is an island: one or more replicas that an inner algorithm trains (none: one replica;
// ddp: several; fsdp: several that divide their parameters). Each rank of an island meets those in
// the other islands that step the same weights: whole, or its shard where the worker divides
// parameters or, beside narrower ones, optimizer state.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/codecs/compressed_mean.hpp"
#include "algorithms/island_members.hpp"
#include "algorithms/replica.hpp"

namespace orrery {

// The keys that they share; describe_islands registers them, and describe_membership those of
// membership.
struct IslandOptions : MembershipOptions {
  std::int64_t workers = 0;        // islands; 0: every replica is one
  std::int64_t inner_steps = 500;  // H, between two meetings
  CodecSpec codec;                 // of what they send
  Node inner;                      // the inner algorithm; absent: ddp
};

template <class Options>
void describe_islands(Fields<Options>& f, bool with_codec = true) {
  const auto own = []<class M>(M IslandOptions::*member) {
    return static_cast<M Options::*>(member);
  };
  f.field("workers", own(&IslandOptions::workers))
      .between(0, 1'000'000)
      .doc("islands that train by themselves; 0: each replica is one");
  f.field("inner_steps", own(&IslandOptions::inner_steps))
      .at_least(1)
      .doc("H: steps between two meetings");
  if (with_codec)
    f.section("codec", own(&IslandOptions::codec)).doc("how the workers' numbers are sent");
  f.open("inner", own(&IslandOptions::inner))
      .doc("the algorithm that trains a worker, with its optimizer; default ddp");
}

// Of algorithms whose workers hold the same, or a part of it, when a meeting is over.
template <class Options>
void describe_members(Fields<Options>& f) {
  f.list("members", static_cast<std::vector<Member> Options::*>(&MembershipOptions::members))
      .doc(
          "workers that come or go at a meeting, or die on the way: {worker, joins_after, "
          "leaves_after or dies_after}; one that joins is given what the others hold alike");
}
// And meetings are over before the next step.
template <class Options>
void describe_membership(Fields<Options>& f) {
  const auto own = []<class M>(M MembershipOptions::*member) {
    return static_cast<M Options::*>(member);
  };
  describe_members(f);
  f.field("deadline", own(&MembershipOptions::deadline))
      .positive()
      .doc("how long one that has died is waited for until the others meet without it");
  f.field("quorum", own(&MembershipOptions::quorum))
      .at_least(1)
      .doc(
          "workers that suffice for a meeting; whoever comes later is late: its steps since the "
          "last count for nothing, and it goes on from what the next brings; absent: all are "
          "waited for");
  f.field("grace", own(&MembershipOptions::grace))
      .at_least(Seconds(0))
      .doc("how long the others are waited for when a quorum has come");
  f.check([](const Options& options, const SectionProblems& p) {
    const IslandOptions& o = options;
    check_members_noticed(o.members, o.deadline, p);
    if (o.grace > Seconds(0) && !o.quorum)
      p.add("grace", "it is a quorum that waits for so long", "set quorum, or leave it out");
  });
}

class Islands : public Algorithm {
 public:
  // The inner algorithm's step, then what the islands have to do with each other.
  StepEnd issue(Progress& progress) final;
  void visit(Archive& archive) override;
  void finish() override;
  // The inner algorithm's, and the meetings'.
  std::optional<Bytes> sent(std::int64_t steps) const final;

 protected:
  // `elements`: the most that is averaged at a time; `meeting_takes`: steps until a meeting is
  // over.
  Islands(Replica& replica, std::unique_ptr<Algorithm> inner, const IslandOptions& options,
          std::int64_t elements, std::int64_t meeting_takes = 0);
  // Every island has issued `t` inner steps since the start of the training.
  virtual void inner_step_issued(std::int64_t t) = 0;
  // What workers hold alike behind a meeting, for one that joins; and it has been given that.
  virtual void visit_common(Archive&) {}
  virtual void has_joined() {}
  // What a rank sends in the meetings of the first `steps` steps, where all are there.
  virtual Bytes sent_in_meetings(std::int64_t steps) const = 0;
  Bytes sent_in_mean(std::int64_t elements) const;
  Bytes sent_after_change(std::int64_t begin, std::int64_t end) const final;
  // Of a meeting that averages all weights.
  Bytes sent_in_meeting() const;

  Stream& compute() const { return replica_.compute(); }
  // Where islands meet, and its stream; of a single one neither.
  Stream* communication() const { return communication_; }
  Channel* channel() const { return channel_; }
  // Issues the mean of a vector of the compute stream over the islands, on the communication
  // stream; the compute stream waits only where it is told to. Where islands die, the host waits
  // for it.
  Event mean(const Tensor& x);
  // The islands that a mean issued now is over.
  std::vector<int> that_meet() const;
  // The weights that the rank owns, as the last inner step leaves them.
  Tensor weights();
  // Weights [begin, end), all: have new values.
  void weights_changed(std::int64_t begin, std::int64_t end) final;
  void weights_changed() { weights_changed(0, replica_.flat().weights().elements()); }
  // A copy of the weights as they are now, kept from meeting to meeting.
  Tensor copy_of_weights(const char* name);
  // `gradient` <- theta - gradient, on the compute stream.
  void subtract_from(const Tensor& theta, const Tensor& gradient);
  // `weights` <- weights - theta.
  void take_change(const Tensor& theta, const Tensor& weights);

  Replica& replica_;
  Rank& rank_;

 private:
  bool enter(Progress& progress);
  bool meet_as_member(Progress& progress);

  std::shared_ptr<const Codec> codec_;
  std::unique_ptr<Algorithm> inner_;
  std::optional<CompressedMean> mean_;    // absent: a single island
  std::optional<IslandMembers> members_;  // absent: all stay
  Bytes met_;  // sent because of changed weights, where islands come and go
  Stream* communication_ = nullptr;
  Channel* channel_ = nullptr;
};

}  // namespace orrery
