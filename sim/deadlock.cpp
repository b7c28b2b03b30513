#include "sim/deadlock.hpp"

#include <algorithm>

#include "sim/collectives.hpp"
#include "sim/cursor.hpp"
#include "sim/mail.hpp"
#include "sim/sim_rank.hpp"

namespace orrery::sim {

namespace {

constexpr std::size_t most_named = 16;  // ranks, and communications

std::string list_ranks(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (std::size_t i = 0; i < std::min(ranks.size(), most_named); ++i)
    text += (i == 0 ? "" : ", ") + std::to_string(ranks[i]);
  if (ranks.size() > most_named)
    text += " and " + std::to_string(ranks.size() - most_named) + " more";
  return text;
}

// Of a pair, the site of each side that has issued it; of a group, the first member's.
std::string describe_transfer(const Rendezvous& rendezvous) {
  std::string text = rendezvous.describe();
  if (rendezvous.world == 0 || !is_pair(rendezvous.first.kind)) return text;
  const auto& transfer = *reinterpret_cast<const Transfer*>(rendezvous.world);
  const auto ranks = ranks_of_pair(rendezvous);
  const bool exchange = rendezvous.first.kind == Collective::exchange;
  text = std::string(exchange ? "exchange" : "send and receive") + " #" +
         std::to_string(rendezvous.sequence) + " on " + rendezvous.communicator->name() + " (";
  for (std::size_t i = 0; i < 2; ++i) {
    const bool issued = transfer.sites[i].line != 0;
    text += std::string(i == 0 ? "" : "; ") +
            (exchange ? ""
             : i == 0 ? "send, "
                      : "receive, ") +
            "rank " + std::to_string(ranks[i]) + ": " +
            (issued ? to_string(transfer.sites[i]) : "not issued");
  }
  return text + ")";
}

std::string describe_head(const SimRank& device, const StreamState& stream) {
  const Entry entry = stream.queue.front();
  const std::string number = "operation " + std::to_string(stream.head()) + ", ";
  switch (entry.kind()) {
    case EntryKind::communication:
      return number + describe_transfer(*entry.pointer<const Transfer>()->rendezvous);
    case EntryKind::meeting: {
      const Communication& c = entry.pointer<const RecordedCommunication>()->communication;
      if (stream.phase == StreamPhase::communicating && c.kind != Collective::exchange)
        return number + describe_transfer(device.channel_place(entry.extra()).meeting->rendezvous);
      return number + name(c.kind) + " (" + to_string(c.site) + ")";
    }
    case EntryKind::fence:
      return number + "waits for operation " + std::to_string(entry.event().ordinal) +
             " of stream " + device.stream_name(entry.event().stream);
    case EntryKind::kernel:
    case EntryKind::copy:
      return number + "kernel " + entry.pointer<const PreparedKernel>()->kernel.label;
    case EntryKind::sequence:
      return number + "sequence " + entry.pointer<const Sequence>()->name();
    case EntryKind::upload:
      return number + "an upload";
    case EntryKind::mark:
      return "the end of a step";
  }
  return number;
}

std::string describe_flow(const SimRank& device, const HostFlow& flow) {
  switch (flow.blocked) {
    case HostFlow::Blocked::wait: {
      std::string text = "waits for " + flow.wait->describe();
      if (flow.wait->kind == Wait::Kind::events && !flow.wait->events.empty())
        text += ", stream " + device.stream_name(flow.wait->events[0].stream);
      return text;
    }
    case HostFlow::Blocked::queue:
      return "waits for room in the launch queue of stream " + device.stream_name(flow.room.stream);
    case HostFlow::Blocked::drain:
      return "has ended; its streams have not";
    case HostFlow::Blocked::baton:
    case HostFlow::Blocked::clock:
    case HostFlow::Blocked::no:
      return "waits for its turn";
  }
  return "";
}

void describe_rank(Error& error, const SimRank& device) {
  const std::string rank = "rank " + std::to_string(device.id());
  for (const auto& flow : device.flows()) {
    if (flow->ended) continue;
    const bool only = device.flows().size() == 1;
    error.with(only ? rank : rank + " flow " + flow->name, describe_flow(device, *flow));
  }
  for (const auto& stream : device.streams())
    if (!stream->queue.empty())
      error.with(rank + " stream " + device.stream_name(stream->index),
                 "is at " + describe_head(device, *stream));
}

void describe_communications(Error& error, const Core& core) {
  std::size_t pending = 0;
  for (const auto& communicator : core.state.communicators.all()) {
    for (const Rendezvous* rendezvous : communicator->all_pending()) {
      if (++pending > most_named) continue;
      std::string text = describe_transfer(*rendezvous);
      const std::vector<int> missing = rendezvous->missing();
      if (!missing.empty())
        text += " lacks " + list_ranks(missing);
      else
        text += ", issued by all, has been reached by " + std::to_string(rendezvous->arrived) +
                " of " + std::to_string(rendezvous->expected) + " streams";
      error.with("pending", text);
    }
  }
  for (const Meeting& meeting : core.collectives->meetings()) {
    const Rendezvous& rendezvous = meeting.rendezvous;
    if (rendezvous.arrived == 0 || ++pending > most_named) continue;
    error.with("pending", describe_transfer(rendezvous) + " has been reached by " +
                              std::to_string(rendezvous.arrived) + " of " +
                              std::to_string(rendezvous.expected) + " streams");
  }
  if (pending > most_named)
    error.with("pending", "and " + std::to_string(pending - most_named) + " more");
}

}  // namespace

Error describe_deadlock(const Core& core) {
  Error error(Category::deadlock, "nothing can happen any more, and not all ranks have ended");
  error.with("time", time_text(core.engine.now()));
  std::size_t stuck = 0;
  for (const auto& device : core.ranks) {
    if (device->ended()) continue;
    if (++stuck <= most_named) describe_rank(error, *device);
  }
  if (stuck > most_named)
    error.with("ranks", "and " + std::to_string(stuck - most_named) + " more");
  describe_communications(error, core);
  return error;
}

}  // namespace orrery::sim
