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
  SimCursor(Core& core, std::uint32_t id, const Recording& recording);

  const std::string& stream_name(std::uint32_t index) const override {
    return recording_.streams[index];
  }
  void reconsider() override;
  // Phase 2: the host goes on until it has to wait again.
  void go_on();
  // The stream's head, a meeting, becomes a communication with its members.
  Transfer& meet(const RecordedCommunication& recorded);
  void fill_report(RankReport& report);

 private:
  // What opened channels lead to.
  struct Ends {
    Meeting* out = nullptr;
    Meeting* in = nullptr;  // of an edge; else as `out`
    int index = 0;
    bool edge = false;
  };
  bool issue(const Record& record);
  bool wait_for(const RecordedWait& recorded);
  void stop(HostFlow::Blocked why);
  bool leave();
  Ends open(const RecordedChannel& channel) const;

  const Recording& recording_;
  std::size_t at_ = 0;  // of the next record
  std::vector<Ends> ends_;
  bool woken_ = false;
  HostFlow::Blocked leaving_ = HostFlow::Blocked::no;  // how far its host is after the last record
};

}  // namespace orrery::sim
