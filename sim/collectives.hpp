// Communications between ranks: members meet, then take their time by the machine's plan, by flows
// over its links, or step by step.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "backend/channel.hpp"
#include "platforms/link_load.hpp"
#include "sim/core.hpp"
#include "sim/stream_state.hpp"
#include "sim/values.hpp"

namespace orrery::sim {

struct Transfer;

// A member of a communication that is simulated step by step.
struct RingMember {
  Transfer* transfer = nullptr;
  std::uint32_t index = 0;
  std::uint32_t sent = 0, received = 0;  // steps
};
// Of such a communication.
struct Rings {
  std::vector<RingMember> members;  // of all rings, one behind the other
  std::vector<int> ranks;           // theirs
  std::uint32_t steps = 0;
  Bytes chunk;
  Time alpha;
};

// How long an operation of this kind and size takes on a communicator, when alone.
struct CollectivePrice {
  Collective kind = Collective::all_reduce;
  Bytes size;
  Time total;    // alone, or beside its siblings
  Time latency;  // of total, before its flows start
  Bytes volume;  // that a member sends, or of a pair's flow
  std::vector<Flow> flows;
};
struct CollectiveSettings {  // of a communicator
  bool known = false;
  Fidelity fidelity = Fidelity::analytic;
  bool crosses = false;  // from neighbourhood to neighbourhood
  std::vector<CollectivePrice> prices;
  double sharing[2] = {0, 0};  // of rings and of all_to_alls; 0: not known yet
};

// The simulated side of a Rendezvous, from the first member's issue to its end.
struct Transfer {
  Rendezvous* rendezvous = nullptr;
  CollectiveSettings* settings = nullptr;  // of its communicator, when a member has come
  std::vector<StreamState*> members;       // those that have come, in that order
  Time start;                              // the latest of them
  Time began;                              // of_meeting: the start of the one that is ending
  std::optional<Taken> taken;              // of each member's GPU, while it waits; empty: not asked
  Taken taken_beside;                      // besides, while it transfers
  Fidelity fidelity = Fidelity::analytic;
  bool flows_next = false;    // its latency is being paid
  std::uint32_t left = 0;     // flows, or messages
  std::array<Site, 2> sites;  // of a pair's two sides
  std::unique_ptr<TransferValues> values;
  std::unique_ptr<Rings> rings;  // where it is simulated step by step
  std::exception_ptr poison;
  bool of_meeting = false;
  bool given_up = false;  // or will be, when its time is over

  // Calls f for the members that its end frees first.
  template <class F>
  void for_last(const F& f) const {
    constexpr std::size_t most = 8;
    const std::size_t last = members.size();
    for (std::size_t i = last < most ? 0 : last - most; i < last; ++i) f(*members[i]);
  }
};

struct RecordedCommunication;

// Where the members of a communicator meet whose operations have been matched as they were
// recorded: one operation after the other, each under way from its first member's arrival to its
// end.
struct Meeting {
  Rendezvous rendezvous;
  Transfer transfer;
  const RecordedCommunication* recorded = nullptr;  // what `rendezvous` was filled in from
};

class Collectives {
 public:
  explicit Collectives(Core& core) : core_(core) {}

  Meeting& meeting_of(Communicator& communicator);
  // A member's stream has come to its next operation; arrive() must follow.
  static Transfer& meet(Meeting& meeting, const RecordedCommunication& recorded, int member);
  const std::deque<Meeting>& meetings() const { return meetings_; }

  // A member issues its next operation. Throws what Communicator::issue throws.
  Transfer& issue(const Communication& communication,
                  const std::vector<std::pair<const Communicator*, std::uint64_t>>& others);
  // A member's stream has come to it, for the host at `start`, which may lie ahead.
  void arrive(StreamState& stream, Transfer& transfer, Time start);

  // Its members are not simulated together: each ends among those that are.
  void crosses(const Communicator& communicator) { settings(communicator).crosses = true; }

  // How long it takes when nothing else goes on. The communicator's number stands for it, until
  // another is to have its number.
  Time alone(Communicator& communicator, const Communication& communication);
  // What it then takes of each member's GPU.
  Taken taken(Communicator& communicator, const Communication& communication);

  void forget(const Communicator& communicator) { settings(communicator) = {}; }

  // A rank's program has ended, and what its streams were given.
  void rank_ended();

  void transfer_due(Transfer& transfer);
  void lost_due(Transfer& transfer);
  void reads_due(Transfer& transfer);
  void writes_due(StreamState& stream);
  void member_due(StreamState& stream);
  Time awaited(std::uint64_t payload);
  void flow_due(Transfer& transfer);
  void ring_sends(RingMember& member);
  void ring_receives(RingMember& receiver);

 private:
  using Price = CollectivePrice;
  using Settings = CollectiveSettings;
  // The sibling groups of a communicator, which split the ranks along the same axes or are the same
  // edge elsewhere, usually communicate when it does. By link, the bytes per second of its
  // bandwidth that all of them move when each moves as much as it has members' worth of one buffer.
  struct SiblingLoad {
    std::string group;
    bool pairwise = false;
    std::vector<double> load;
  };

  Settings& settings(const Communicator& communicator);
  const Price& price(const Transfer& transfer) {
    return price(*transfer.rendezvous, *transfer.settings);
  }
  const Price& price(const Rendezvous& rendezvous, Settings& settings);
  Price price_group(const Communicator& communicator, Collective kind, Bytes size);
  double sharing(const Communicator& communicator, Collective kind);
  const std::vector<double>& sibling_load(const Communicator& communicator, bool pairwise);
  Price price_pair(const Rendezvous& rendezvous);
  void begin(Transfer& transfer);
  void look_for_lost(Transfer& transfer);
  Taken waiting(const Rendezvous& rendezvous) const;
  void take(Transfer& transfer, StreamState& member, Time start);
  void take_bandwidth(Transfer& transfer);
  void give_back(Transfer& transfer);
  void begin_ring(Transfer& transfer);
  void start_flows(Transfer& transfer);
  void start_flow(int from, int to, Bytes size, std::uint64_t payload);
  void finish(Transfer& transfer);
  void await(Transfer& transfer, StreamState& member, Time start);
  void end_apart(Transfer& transfer, Time end);
  void end_member(const Transfer& transfer, StreamState& stream, Time start);
  void trace(const Transfer& transfer);
  void count_links(const Transfer& transfer);
  void close(Transfer& transfer);

  Core& core_;
  std::deque<Settings> settings_;  // by communicator; they stay where they are
  std::deque<SiblingLoad> sibling_loads_;
  LinkLoad own_load_;
  Price pair_price_;
  std::deque<Transfer> transfers_;
  std::vector<Transfer*> free_;
  std::deque<Meeting> meetings_;
  std::vector<Meeting*> meeting_of_;  // by communicator
  bool may_lose_ = false;             // some communication may be given up
  std::vector<std::uint32_t> path_;
  std::vector<LinkId> links_;
  std::map<std::pair<const Communicator*, std::uint32_t>, std::int64_t>
      traced_steps_;  // of a rank, until it last exchanged there
};

// The two ranks of a send, receive or exchange, in the order of its parts.
bool is_pair(Collective kind);
std::array<int, 2> ranks_of_pair(const Rendezvous& rendezvous);

}  // namespace orrery::sim
