// Communications between ranks: members meet, then take their time by the machine's plan, by flows
// over its links, or step by step.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <vector>

#include "backend/channel.hpp"
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

// The simulated side of a Rendezvous, from the first member's issue to its end.
struct Transfer {
  Rendezvous* rendezvous = nullptr;
  std::vector<StreamState*> members;  // those that have come, in that order
  Time start;                         // the latest of them
  Fidelity fidelity = Fidelity::analytic;
  bool flows_next = false;    // its latency is being paid
  std::uint32_t left = 0;     // flows, or messages
  std::array<Site, 2> sites;  // of a pair's two sides
  std::unique_ptr<TransferValues> values;
  std::vector<RingMember> ring;
  std::uint32_t ring_steps = 0;
  Bytes ring_chunk;
  std::exception_ptr poison;
};

class Collectives {
 public:
  explicit Collectives(Core& core) : core_(core) {}

  // A member issues its next operation. Throws what Communicator::issue throws.
  Transfer& issue(const Communication& communication,
                  const std::vector<std::pair<const Communicator*, std::uint64_t>>& others);
  // A member's stream has come to it, for the host at `start`, which may lie ahead.
  void arrive(StreamState& stream, Transfer& transfer, Time start);

  // How long it takes when nothing else goes on. The communicator's number stands for it.
  Time alone(Communicator& communicator, const Communication& communication);

  void transfer_due(Transfer& transfer);
  void reads_due(Transfer& transfer);
  void writes_due(StreamState& stream);
  void flow_due(Transfer& transfer);
  void ring_sends(RingMember& member);
  void ring_receives(RingMember& receiver);

 private:
  // How long an operation of this kind and size takes on a communicator, when alone.
  struct Price {
    Collective kind = Collective::all_reduce;
    Bytes size;
    Time total;    // alone
    Time latency;  // of total, before its flows start
    Bytes volume;  // of each flow
  };
  struct Settings {  // of a communicator
    bool known = false;
    Fidelity fidelity = Fidelity::analytic;
    std::vector<Price> prices;
  };

  Settings& settings(const Communicator& communicator);
  const Price& price(const Rendezvous& rendezvous);
  Price price_group(const Communicator& communicator, Collective kind, Bytes size) const;
  Price price_pair(const Rendezvous& rendezvous) const;
  void begin(Transfer& transfer);
  void begin_ring(Transfer& transfer);
  void start_flows(Transfer& transfer);
  void start_flow(int from, int to, Bytes size, std::uint64_t payload);
  void finish(Transfer& transfer);
  void end_member(Transfer& transfer, StreamState& stream);
  void trace(const Transfer& transfer) const;
  void close(Transfer& transfer);

  Core& core_;
  std::vector<Settings> settings_;  // by communicator
  Price pair_price_;
  std::deque<Transfer> transfers_;
  std::vector<Transfer*> free_;
  std::vector<std::uint32_t> path_;
  std::vector<LinkId> links_;
};

// The two ranks of a send, receive or exchange, in the order of its parts.
bool is_pair(Collective kind);
std::array<int, 2> ranks_of_pair(const Rendezvous& rendezvous);

}  // namespace orrery::sim
