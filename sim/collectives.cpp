#include "sim/collectives.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "sim/device.hpp"
#include "sim/streams.hpp"

namespace orrery::sim {

bool is_pair(Collective kind) {
  return kind == Collective::send || kind == Collective::receive || kind == Collective::exchange;
}

std::array<int, 2> ranks_of_pair(const Rendezvous& rendezvous) {
  const std::vector<int>& members = rendezvous.communicator->members();
  if (rendezvous.first.kind != Collective::exchange) return {members[0], members[1]};
  const auto [low, high] = std::minmax(rendezvous.first.member, rendezvous.first.peer);
  return {members[static_cast<std::size_t>(low)], members[static_cast<std::size_t>(high)]};
}

Transfer& Collectives::issue(
    const Communication& communication,
    const std::vector<std::pair<const Communicator*, std::uint64_t>>& others) {
  // Parts are never asked for: what is needed of them is kept here, so that a group of 16,384
  // costs no more than its members' queue entries.
  Rendezvous& rendezvous = communication.communicator->issue(communication, others, false);
  if (rendezvous.world == 0) {
    if (free_.empty()) free_.push_back(&transfers_.emplace_back());
    Transfer& fresh = *free_.back();
    free_.pop_back();
    fresh.rendezvous = &rendezvous;
    rendezvous.world = reinterpret_cast<std::uint64_t>(&fresh);
  }
  Transfer& transfer = *reinterpret_cast<Transfer*>(rendezvous.world);
  const int part = rendezvous.part_index(communication.member);
  if (is_pair(communication.kind))
    transfer.sites[static_cast<std::size_t>(part)] = communication.site;
  const Operand operands[2] = {communication.in, communication.out};
  if (any_values(operands)) {
    if (transfer.values == nullptr)
      transfer.values =
          std::make_unique<TransferValues>(static_cast<std::size_t>(rendezvous.expected));
    transfer.values->join(part, communication.in, communication.out);
  }
  return transfer;
}

void Collectives::arrive(StreamState& stream, Transfer& transfer, Time start) {
  transfer.members.push_back(&stream);
  transfer.start = std::max(transfer.start, start);
  if (stream.poisoned && transfer.poison == nullptr)
    transfer.poison = stream.device->poison_of(stream);
  if (++transfer.rendezvous->arrived < transfer.rendezvous->expected) return;
  transfer.fidelity = settings(*transfer.rendezvous->communicator).fidelity;
  if (transfer.values != nullptr && transfer.values->reads_race())
    core_.engine.schedule(transfer.start, core_.racy_read_key(),
                          make_payload(Due::transfer_reads, &transfer));
  else
    begin(transfer);
}

void Collectives::reads_due(Transfer& transfer) {
  transfer.values->take_copies();
  begin(transfer);
}

// All members have come, the last at transfer.start.
void Collectives::begin(Transfer& transfer) {
  const Rendezvous& rendezvous = *transfer.rendezvous;
  const bool ring = transfer.fidelity == Fidelity::messages && !is_pair(rendezvous.first.kind);
  if (ring && rendezvous.expected > 1) return begin_ring(transfer);
  const Price& alone = price(rendezvous);
  const bool contended = transfer.fidelity != Fidelity::analytic && rendezvous.expected > 1;
  transfer.flows_next = contended;
  const Time next = transfer.start + (contended ? alone.latency : alone.total);
  if (!contended && core_.delivering && next == core_.now)
    finish(transfer);
  else
    core_.engine.schedule(
        next,
        core_.extra_key(static_cast<std::uint32_t>(rendezvous.communicator->members().front())),
        make_payload(Due::transfer, &transfer));
}

void Collectives::transfer_due(Transfer& transfer) {
  if (std::exchange(transfer.flows_next, false))
    start_flows(transfer);
  else
    finish(transfer);
}

void Collectives::start_flows(Transfer& transfer) {
  const Rendezvous& rendezvous = *transfer.rendezvous;
  const std::vector<int>& members = rendezvous.communicator->members();
  const Bytes volume = price(rendezvous).volume;
  const std::uint64_t payload = make_payload(Due::transfer_flow, &transfer);
  if (is_pair(rendezvous.first.kind)) {
    const auto [one, other] = ranks_of_pair(rendezvous);
    const bool both = rendezvous.first.kind == Collective::exchange;
    transfer.left = both ? 2 : 1;
    start_flow(one, other, volume, payload);
    if (both) start_flow(other, one, volume, payload);
    return;
  }
  transfer.left = static_cast<std::uint32_t>(members.size());
  for (std::size_t i = 0; i < members.size(); ++i)
    start_flow(members[i], members[(i + 1) % members.size()], volume, payload);
}

void Collectives::start_flow(int from, int to, Bytes size, std::uint64_t payload) {
  path_.clear();
  links_.clear();
  core_.machine.route(from, to, path_);
  for (const std::uint32_t link : path_) links_.push_back(LinkId{link});
  core_.engine.start_flow(links_, size, core_.extra_key(static_cast<std::uint32_t>(from)), payload);
}

void Collectives::flow_due(Transfer& transfer) {
  if (--transfer.left == 0) finish(transfer);
}

// Every member sends its first chunk when alpha has passed, and each next one, alpha after it has
// received as many as it has sent.
void Collectives::begin_ring(Transfer& transfer) {
  const Rendezvous& rendezvous = *transfer.rendezvous;
  const auto members = static_cast<std::uint32_t>(rendezvous.expected);
  const CollectivePlan plan = ring_plan(rendezvous.first.kind, rendezvous.first.size(),
                                        rendezvous.expected, Time{}, BytesPerSecond(1e9));
  transfer.ring_steps = static_cast<std::uint32_t>(plan.steps);
  transfer.ring_chunk = Bytes(plan.volume.value / plan.steps);
  transfer.left = transfer.ring_steps * members;
  transfer.ring.resize(members);
  const std::vector<int>& ranks = rendezvous.communicator->members();
  for (std::uint32_t i = 0; i < members; ++i) {
    transfer.ring[i] = {&transfer, i, 0, 0};
    const int from = ranks[i], to = ranks[(i + 1) % members];
    core_.engine.schedule(transfer.start + core_.machine.latency(from, to),
                          core_.extra_key(static_cast<std::uint32_t>(from)),
                          make_payload(Due::ring_sends, &transfer.ring[i]));
  }
}

// To the next of the ring; in an all_to_all, step k goes k+1 places on.
void Collectives::ring_sends(RingMember& member) {
  Transfer& transfer = *member.transfer;
  const Communicator& communicator = *transfer.rendezvous->communicator;
  const bool direct = transfer.rendezvous->first.kind == Collective::all_to_all;
  const std::uint32_t step = member.sent++;
  const std::size_t next = (member.index + 1 + (direct ? step : 0)) % transfer.ring.size();
  start_flow(communicator.members()[member.index], communicator.members()[next],
             transfer.ring_chunk, make_payload(Due::ring_receives, &transfer.ring[next]));
}

void Collectives::ring_receives(RingMember& receiver) {
  Transfer& transfer = *receiver.transfer;
  if (--transfer.left == 0) return finish(transfer);
  if (++receiver.received == transfer.ring_steps) return;
  const std::vector<int>& ranks = transfer.rendezvous->communicator->members();
  const int from = ranks[receiver.index];
  const int to = ranks[(receiver.index + 1) % ranks.size()];
  core_.engine.schedule(core_.now + core_.machine.latency(from, to),
                        core_.extra_key(static_cast<std::uint32_t>(from)),
                        make_payload(Due::ring_sends, &receiver));
}

void Collectives::finish(Transfer& transfer) {
  if (core_.trace != nullptr) trace(transfer);
  bool racy = false;
  if (transfer.values != nullptr && transfer.poison == nullptr) {
    try {
      transfer.values->carry_out(transfer.rendezvous->first);
      racy = transfer.values->writes_race();
    } catch (...) {
      transfer.poison = transfer.members.back()->device->failure_here(*transfer.members.back());
    }
  }
  // The last that came ends first: it is in the cache, and the others come while it is dealt with.
  for (std::size_t i = transfer.members.size(); i-- > 0;) {
    StreamState* const member = transfer.members[i];
    if (i >= 2) transfer.members[i - 2]->prefetch();
    if (i >= 1) __builtin_prefetch(transfer.members[i - 1]->device);
    if (racy)
      core_.engine.schedule(
          core_.now, Core::racy_write_key(member->device->id(), member->index, member->head()),
          make_payload(Due::transfer_writes, member));
    else
      end_member(transfer, *member);
  }
  if (racy) return;
  close(transfer);
  core_.streams->run_ready();
}

void Collectives::writes_due(StreamState& stream) {
  const Entry entry = stream.queue.front();
  Transfer& transfer = *entry.pointer<Transfer>();
  const ChannelPlace& place = stream.device->channel_place(entry.extra());
  transfer.values->write_racy(transfer.rendezvous->part_index(place.member));
  end_member(transfer, stream);
  if (++transfer.rendezvous->finished == transfer.rendezvous->expected) close(transfer);
  core_.streams->run_ready();
}

void Collectives::end_member(Transfer& transfer, StreamState& stream) {
  stream.device->count_communication(stream, transfer.start);
  if (transfer.poison != nullptr) Streams::poison(stream, stream.head(), transfer.poison);
  const bool edge = transfer.rendezvous->communicator->edge();
  core_.streams->communication_ended(stream, edge ? WaitClass::edge : WaitClass::collective);
}

void Collectives::close(Transfer& transfer) {
  transfer.rendezvous->communicator->retire(*transfer.rendezvous);
  std::vector<StreamState*> members = std::move(transfer.members);
  members.clear();
  transfer = Transfer{};
  transfer.members = std::move(members);  // its memory is used again
  free_.push_back(&transfer);
}

void Collectives::trace(const Transfer& transfer) const {
  constexpr int most_arrows = 16;  // per operation: more would hide what they show
  const Rendezvous& rendezvous = *transfer.rendezvous;
  const bool edge = rendezvous.communicator->edge();
  const auto named = [&](Collective kind) {
    return std::string(name(kind)) + " " + rendezvous.communicator->name();
  };
  // Each end of an edge by what it does, whoever came first.
  const std::string what = named(edge ? Collective::send : rendezvous.first.kind);
  const std::string received = edge ? named(Collective::receive) : what;
  const std::string arguments =
      fmt::format(R"("bytes":{},"members":{})", rendezvous.first.size().value, rendezvous.expected);
  const Time now = core_.now;
  for (const StreamState* s : transfer.members) {
    const Track track{s->device->id(), s->index};
    const bool sends = s->device->channel_place(s->queue.front().extra()).member == 0;
    core_.trace->slice(track, "communication", sends ? what : received, s->began, now, arguments);
    core_.trace->slice(track, "communication", "transfer", transfer.start, now);
  }
  if (rendezvous.expected < 2 || rendezvous.expected > most_arrows) return;
  // From who sends, or came last, to the others.
  const StreamState* from = transfer.members.back();
  if (edge && static_cast<int>(from->device->id()) != rendezvous.communicator->members().front())
    from = transfer.members.front();
  for (const StreamState* s : transfer.members) {
    if (s == from) continue;
    core_.trace->arrow(what, {from->device->id(), from->index}, transfer.start,
                       {s->device->id(), s->index}, transfer.start);
  }
}

}  // namespace orrery::sim
