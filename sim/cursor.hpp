// A rank of the simulated world that replays what was recorded for its class: a place in the
// recording, streams and times of its own, no program and no stack.
//
// Its host does what the program's would: it issues ahead until a launch queue is full or it waits,
// and pays for each call on its clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sim/collectives.hpp"
#include "sim/recording.hpp"
#include "sim/sim_rank.hpp"

namespace orrery::sim {

class SimCursor : public SimRank {
 public:
  // `scripts`: those of the recording, by stream.
  SimCursor(Core& core, std::uint32_t id, const Recording& recording,
            const std::vector<StreamScript>& scripts);

  const std::string& stream_name(std::uint32_t index) const override {
    return recording_.streams[index];
  }
  void reconsider() override;
  // Phase 2: the host goes on until it has to wait again.
  void go_on();
  // A stream comes to `head`, a meeting: what goes on between its members.
  Transfer& meet(const Entry& head);
  // By how much its host is behind the script.
  Time lateness() const { return lateness_; }
  void fill_report(RankReport& report);

 private:
  bool issue(const Record& record);
  void pay_wait(HostFlow& flow);
  void host_waited();
  bool wait_for(const RecordedWait& recorded);
  void stop(HostFlow::Blocked why);
  bool leave();
  ChannelPlace open(const RecordedChannel& channel, Collective kind) const;

  const Recording& recording_;
  const std::vector<StreamScript>& scripts_;
  std::size_t at_ = 0;  // of the next record
  Time scripted_;       // its host's clock, had it never waited
  Time lateness_;
  bool woken_ = false;
  HostFlow::Blocked leaving_ = HostFlow::Blocked::no;  // how far its host is after the last record
};

}  // namespace orrery::sim
