#include "sim/collectives.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "sim/device.hpp"
#include "sim/interference.hpp"
#include "sim/recording.hpp"
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

Meeting& Collectives::meeting_of(Communicator& communicator) {
  if (communicator.id() >= meeting_of_.size()) meeting_of_.resize(communicator.id() + 1);
  Meeting*& found = meeting_of_[communicator.id()];
  if (found != nullptr) return *found;
  Meeting& fresh = meetings_.emplace_back();
  fresh.rendezvous.communicator = &communicator;
  fresh.rendezvous.expected = communicator.sides();
  fresh.rendezvous.world = reinterpret_cast<std::uint64_t>(&fresh.transfer);
  fresh.transfer.rendezvous = &fresh.rendezvous;
  fresh.transfer.of_meeting = true;
  found = &fresh;
  return fresh;
}

Transfer& Collectives::meet(Meeting& meeting, const RecordedCommunication& recorded, int member) {
  Rendezvous& rendezvous = meeting.rendezvous;
  if (rendezvous.arrived == 0 && meeting.recorded != &recorded) {
    meeting.recorded = &recorded;
    rendezvous.first = recorded.communication;
    rendezvous.first.communicator = rendezvous.communicator;
    meeting.transfer.sites = {};
  }
  ORRERY_ASSERT(rendezvous.first.elements == recorded.communication.elements,
                "members of a group meet for the same operation");
  if (is_pair(recorded.communication.kind))
    meeting.transfer.sites[static_cast<std::size_t>(member)] = recorded.communication.site;
  return meeting.transfer;
}

void Collectives::arrive(StreamState& stream, Transfer& transfer, Time start) {
  transfer.members.push_back(&stream);
  transfer.start = std::max(transfer.start, start);
  if (stream.poisoned && transfer.poison == nullptr)
    transfer.poison = stream.device->poison_of(stream);
  if (core_.communications_interfere) take(transfer, stream, start);
  if (transfer.settings == nullptr)
    transfer.settings = &settings(*transfer.rendezvous->communicator);
  if (++transfer.rendezvous->arrived < transfer.rendezvous->expected) {
    if (transfer.settings->crosses) await(transfer, stream, start);
    return look_for_lost(transfer);
  }
  transfer.fidelity = transfer.settings->fidelity;
  if (transfer.values != nullptr && transfer.values->reads_race())
    core_.engine.schedule(transfer.start, core_.racy_read_key(),
                          make_payload(Due::transfer_reads, &transfer));
  else
    begin(transfer);
}

// ---- Members that are no more

void Collectives::rank_ended() {
  if (!may_lose_) return;
  for (Transfer& transfer : transfers_)
    if (transfer.rendezvous != nullptr) look_for_lost(transfer);
}

// Where it waits only for ranks that have ended, its time begins to run.
void Collectives::look_for_lost(Transfer& transfer) {
  const Rendezvous& rendezvous = *transfer.rendezvous;
  if (rendezvous.first.patience == time_never || transfer.given_up) return;
  may_lose_ = true;
  const std::vector<int> missing = rendezvous.missing();
  const auto lacking = static_cast<int>(missing.size());
  if (lacking == 0 || rendezvous.arrived + lacking < rendezvous.expected) return;
  const auto ended = [this](int rank) {
    return core_.ranks[static_cast<std::size_t>(rank)]->ended();
  };
  if (!std::ranges::all_of(missing, ended)) return;
  transfer.given_up = true;
  core_.engine.schedule(
      std::max(transfer.start, core_.engine.now()) + rendezvous.first.patience,
      core_.extra_key(static_cast<std::uint32_t>(rendezvous.communicator->members().front())),
      make_payload(Due::transfer_lost, &transfer));
}

void Collectives::lost_due(Transfer& transfer) {
  Rendezvous& rendezvous = *transfer.rendezvous;
  if (core_.communications_interfere) give_back(transfer);
  const std::vector<int> lost = rendezvous.missing();
  rendezvous.expected = rendezvous.arrived;
  for (StreamState* const member : transfer.members) {
    const std::uint32_t rank = member->device->id();
    if (core_.trace != nullptr)
      core_.trace->slice({rank, member->index}, "communication",
                         std::string("lost ") + name(rendezvous.first.kind), member->began,
                         core_.now);
    core_.devices[rank]->note_loss({{member->index, member->head()}, lost, rendezvous.describe()});
    end_member(transfer, *member, transfer.start);
  }
  close(transfer);
  core_.streams->run_ready();
}

// ---- What kernels feel of it

// Of each member's GPU by its kernel, which may wait for other members.
Taken Collectives::waiting(const Rendezvous& rendezvous) const {
  const Collective kind = rendezvous.first.kind;
  const std::vector<int>& all = rendezvous.communicator->members();
  if (!is_pair(kind)) return all.size() > 1 ? core_.machine.waiting(kind, all) : Taken{};
  const auto [one, other] = ranks_of_pair(rendezvous);
  return one != other ? core_.machine.waiting(kind, {one, other}) : Taken{};
}

Taken Collectives::taken(Communicator& communicator, const Communication& communication) {
  Rendezvous rendezvous;
  rendezvous.communicator = &communicator;
  rendezvous.first = communication;
  rendezvous.expected = communicator.size();
  const Price& alone = price(rendezvous, settings(communicator));
  Taken all = waiting(rendezvous);
  all.add(core_.machine.transferring(alone.kind, alone.volume, alone.total), 1);
  return all;
}

void Collectives::take(Transfer& transfer, StreamState& member, Time start) {
  if (!transfer.taken) transfer.taken = waiting(*transfer.rendezvous);
  core_.interference->take(*member.device, *transfer.taken, start);
}

// Its bytes take the price's time, whatever slows them down beside others.
void Collectives::take_bandwidth(Transfer& transfer) {
  const Price& alone = price(transfer);
  transfer.taken_beside = core_.machine.transferring(alone.kind, alone.volume, alone.total);
  for (StreamState* const member : transfer.members)
    core_.interference->take(*member->device, transfer.taken_beside, transfer.start);
}

void Collectives::give_back(Transfer& transfer) {
  Taken all = *transfer.taken;
  all.add(transfer.taken_beside, 1);
  for (StreamState* const member : transfer.members)
    core_.interference->give_back(*member->device, all, core_.now);
  transfer.taken.reset();
}

void Collectives::reads_due(Transfer& transfer) {
  transfer.values->take_copies();
  begin(transfer);
}

// All members have come, the last at transfer.start.
void Collectives::begin(Transfer& transfer) {
  if (core_.communications_interfere) take_bandwidth(transfer);
  const Rendezvous& rendezvous = *transfer.rendezvous;
  const bool ring = transfer.fidelity == Fidelity::messages && !is_pair(rendezvous.first.kind);
  if (ring && rendezvous.expected > 1) return begin_ring(transfer);
  const Price& alone = price(transfer);
  const bool contended = rendezvous.expected > 1 && (transfer.fidelity == Fidelity::flow ||
                                                     transfer.fidelity == Fidelity::messages);
  transfer.flows_next = contended;
  const Time next = transfer.start + (contended ? alone.latency : alone.total);
  if (transfer.settings->crosses)
    end_apart(transfer, next);
  else if (!contended && core_.delivering && next == core_.now)
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
  const Price& alone = price(transfer);
  const std::uint64_t payload = make_payload(Due::transfer_flow, &transfer);
  if (is_pair(rendezvous.first.kind)) {
    const auto [one, other] = ranks_of_pair(rendezvous);
    const bool both = rendezvous.first.kind == Collective::exchange;
    transfer.left = both ? 2 : 1;
    start_flow(one, other, alone.volume, payload);
    if (both) start_flow(other, one, alone.volume, payload);
    return;
  }
  transfer.left = static_cast<std::uint32_t>(alone.flows.size());
  for (const Flow& flow : alone.flows) start_flow(flow.from, flow.to, flow.size, payload);
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
// received as many as it has sent; so along every ring of the group.
void Collectives::begin_ring(Transfer& transfer) {
  const Rendezvous& rendezvous = *transfer.rendezvous;
  const Collective kind = rendezvous.first.kind;
  const auto members = static_cast<std::uint32_t>(rendezvous.expected);
  const CollectivePlan plan =
      ring_plan(kind, rendezvous.first.size(), rendezvous.expected, Time{}, BytesPerSecond(1e9));
  std::vector<std::vector<int>> rings{rendezvous.communicator->members()};
  if (kind != Collective::all_to_all) rings = core_.machine.rings(rings.front());
  if (transfer.rings == nullptr) transfer.rings = std::make_unique<Rings>();
  Rings& r = *transfer.rings;
  for (const std::vector<int>& ring : rings)
    r.ranks.insert(r.ranks.end(), ring.begin(), ring.end());
  const auto all = static_cast<std::uint32_t>(r.ranks.size());
  r.steps = static_cast<std::uint32_t>(plan.steps);
  r.chunk = Bytes(plan.volume.value / plan.steps / static_cast<std::int64_t>(rings.size()));
  r.alpha = Time(price(transfer).latency.picoseconds / r.steps);
  transfer.left = r.steps * all;
  r.members.resize(all);
  for (std::uint32_t i = 0; i < all; ++i) {
    r.members[i] = {&transfer, i, 0, 0};
    core_.engine.schedule(transfer.start + r.alpha,
                          core_.extra_key(static_cast<std::uint32_t>(r.ranks[i])),
                          make_payload(Due::ring_sends, &r.members[i]));
  }
  ORRERY_ASSERT(all % members == 0, "a ring passes each member once");
}

// To the next of the ring; in an all_to_all, step k goes k+1 places on.
void Collectives::ring_sends(RingMember& member) {
  Transfer& transfer = *member.transfer;
  const auto members = static_cast<std::uint32_t>(transfer.rendezvous->expected);
  const bool direct = transfer.rendezvous->first.kind == Collective::all_to_all;
  const std::uint32_t step = member.sent++;
  const std::uint32_t first = member.index / members * members;  // of its ring
  const std::uint32_t next = first + (member.index - first + 1 + (direct ? step : 0)) % members;
  start_flow(transfer.rings->ranks[member.index], transfer.rings->ranks[next],
             transfer.rings->chunk,
             make_payload(Due::ring_receives, &transfer.rings->members[next]));
}

void Collectives::ring_receives(RingMember& receiver) {
  Transfer& transfer = *receiver.transfer;
  if (--transfer.left == 0) return finish(transfer);
  if (++receiver.received == transfer.rings->steps) return;
  core_.engine.schedule(
      core_.now + transfer.rings->alpha,
      core_.extra_key(static_cast<std::uint32_t>(transfer.rings->ranks[receiver.index])),
      make_payload(Due::ring_sends, &receiver));
}

void Collectives::finish(Transfer& transfer) {
  if (core_.communications_interfere) give_back(transfer);
  if (core_.trace != nullptr) trace(transfer);
  if (core_.options.link_bytes != nullptr) count_links(transfer);
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
  const std::size_t count = transfer.members.size();
  for (std::size_t i = count < 2 ? 0 : count - 2; i < count; ++i)
    transfer.members[i]->prefetch_around();
  for (std::size_t i = count; i-- > 0;) {
    StreamState* const member = transfer.members[i];
    if (i >= 3) transfer.members[i - 3]->prefetch();
    if (i >= 2) transfer.members[i - 2]->prefetch_around();
    if (i >= 1) transfer.members[i - 1]->device->prefetch_places();
    if (racy)
      core_.engine.schedule(
          core_.now, Core::racy_write_key(member->device->id(), member->index, member->head()),
          make_payload(Due::transfer_writes, member));
    else
      end_member(transfer, *member, transfer.start);
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
  end_member(transfer, stream, transfer.start);
  if (++transfer.rendezvous->finished == transfer.rendezvous->expected) close(transfer);
  core_.streams->run_ready();
}

// ---- Between neighbourhoods

// Its end cannot reach this member's neighbourhood before it would if this were the last.
void Collectives::await(Transfer& transfer, StreamState& member, Time start) {
  const std::uint64_t odd = transfer.rendezvous->sequence & 1;
  core_.engine.await(member.rank, start + price(transfer).total,
                     make_payload(Due::transfer_awaited, &transfer) | odd);
}

Time Collectives::awaited(std::uint64_t payload) {
  const Transfer& transfer = object_of<Transfer>(payload & ~std::uint64_t{1});
  // Who has not been told of the end cannot come to the next, nor the next to its end without it.
  const bool ended = (transfer.rendezvous->sequence & 1) != (payload & 1);
  return ended ? Time{} : price(transfer).total;
}

// A member that has been told may come to the next one while others have not yet; that begins when
// all have come.
void Collectives::end_apart(Transfer& transfer, Time end) {
  if (core_.options.link_bytes != nullptr) count_links(transfer);
  transfer.began = transfer.start;
  for (StreamState* const member : transfer.members)
    core_.engine.schedule(end, core_.extra_key(member->rank),
                          make_payload(Due::transfer_member, member));
  close(transfer);
}

void Collectives::member_due(StreamState& stream) {
  const ChannelPlace& place = stream.device->channel_place(stream.queue.front().extra());
  const Transfer& transfer = place.meeting->transfer;
  end_member(transfer, stream, transfer.began);
  core_.streams->run_ready();
}

void Collectives::end_member(const Transfer& transfer, StreamState& stream, Time start) {
  stream.device->count_communication(stream, start);
  if (transfer.poison != nullptr) Streams::poison(stream, stream.head(), transfer.poison);
  const bool edge = transfer.rendezvous->communicator->edge();
  core_.streams->communication_ended(stream, edge ? WaitClass::edge : WaitClass::collective);
}

void Collectives::close(Transfer& transfer) {
  Rendezvous& rendezvous = *transfer.rendezvous;
  if (transfer.of_meeting) {
    transfer.members.clear();
    if (transfer.rings != nullptr) transfer.rings->ranks.clear();
    transfer.start = {};
    rendezvous.arrived = 0;
    ++rendezvous.sequence;
    return;
  }
  rendezvous.communicator->retire(rendezvous);
  std::vector<StreamState*> members = std::move(transfer.members);
  members.clear();
  transfer = Transfer{};
  transfer.members = std::move(members);  // its memory is used again
  free_.push_back(&transfer);
}

void Collectives::count_links(const Transfer& transfer) {
  const Rendezvous& rendezvous = *transfer.rendezvous;
  if (rendezvous.expected < 2) return;
  const Price& price = this->price(transfer);
  const auto carry = [&](int from, int to, Bytes size) {
    path_.clear();
    core_.machine.route(from, to, path_);
    for (const std::uint32_t link : path_)
      (*core_.options.link_bytes)[link] += static_cast<double>(size.value);
  };
  for (const Flow& flow : price.flows) carry(flow.from, flow.to, flow.size);
  if (!is_pair(rendezvous.first.kind)) return;
  const auto [one, other] = ranks_of_pair(rendezvous);
  carry(one, other, price.volume);
  if (rendezvous.first.kind == Collective::exchange) carry(other, one, price.volume);
}

void Collectives::trace(const Transfer& transfer) {
  constexpr int most_arrows = 16;  // per operation: more would hide what they show
  const Rendezvous& rendezvous = *transfer.rendezvous;
  const bool edge = rendezvous.communicator->edge();
  const auto named = [&](Collective kind) {
    return std::string(name(kind)) + " " + rendezvous.communicator->name();
  };
  // Each end of an edge by what it does, whoever came first.
  const std::string what = named(edge ? Collective::send : rendezvous.first.kind);
  const std::string received = edge ? named(Collective::receive) : what;
  const std::string common =
      fmt::format(R"("bytes":{},"members":{})", rendezvous.first.size().value, rendezvous.expected);
  // Who was paired with whom, and how far apart they may be, is what one looks for in gossip.
  std::map<std::uint32_t, std::int64_t> staleness;
  if (rendezvous.first.kind == Collective::exchange)
    for (const StreamState* s : transfer.members) {
      std::int64_t& before = traced_steps_[{rendezvous.communicator, s->device->id()}];
      const std::int64_t steps = s->device->steps_until(transfer.start);
      staleness[s->device->id()] = steps - std::exchange(before, steps);
    }
  const auto arguments_of = [&](std::uint32_t rank) {
    if (staleness.empty()) return common;
    const auto [low, high] = ranks_of_pair(rendezvous);
    const int peer = static_cast<int>(rank) == low ? high : low;
    return common + fmt::format(R"(,"peer":{},"staleness":{},"peer_staleness":{})", peer,
                                staleness[rank], staleness[static_cast<std::uint32_t>(peer)]);
  };
  const Time now = core_.now;
  for (const StreamState* s : transfer.members) {
    const Track track{s->device->id(), s->index};
    const bool sends = s->device->channel_place(s->queue.front().extra()).member == 0;
    core_.trace->slice(track, "communication", sends ? what : received, s->began, now,
                       arguments_of(track.rank));
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
