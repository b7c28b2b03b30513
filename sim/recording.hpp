// What a rank's program issues, as data: recorded once, replayed for every rank that would issue
// the same.
//
// A program that asks nothing that tells its rank from others, and learns nothing from time
// (Identity, backend/device.hpp), issues the same operations in the same order on each of them,
// whatever they take. So its issue order is known before anything is simulated; the hazard check,
// the ledger and the matching of communications are done while it is recorded.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backend/axes.hpp"
#include "backend/channel.hpp"
#include "backend/flow.hpp"
#include "backend/world.hpp"
#include "platforms/machine.hpp"
#include "sim/stream_state.hpp"

namespace orrery::sim {

enum class RecordKind : std::uint8_t {
  open_stream,
  kernel,         // pointer: PreparedKernel
  sequence,       // pointer: Sequence
  copy,           // pointer: PreparedKernel that prices it
  upload,         // takes no time
  fence,          // place: a stream; number: the ordinal there
  communication,  // place: of ChannelPlace; number: of Recording::communications
  mark,           // number: the step
  wait            // number: of Recording::waits
};

struct Record {
  const void* pointer = nullptr;
  std::uint32_t number = 0;
  std::uint16_t place = 0;
  RecordKind kind = RecordKind::open_stream;
  std::uint8_t stream = 0;
  bool operator==(const Record&) const = default;
};
static_assert(sizeof(Record) == 16);

// How the same channel is opened on another rank.
struct RecordedChannel {
  Axes axes;
  int offset = 0;  // of an edge
  bool edge = false;
  std::string lane;
  bool operator==(const RecordedChannel&) const = default;
};

struct RecordedCommunication {
  Communication communication;  // without operands, member and communicator
  std::uint32_t channel = 0;
  bool operator==(const RecordedCommunication& o) const;
};

struct RecordedWait {
  Event event;
  Wait wait;  // for `event`
};

struct Recording {
  Recording() = default;
  Recording(Recording&&) = default;  // only moved: `waits` point at their events
  Recording& operator=(Recording&&) = default;

  std::vector<Record> records;
  std::vector<std::string> streams;
  std::vector<RecordedChannel> channels;
  std::vector<RecordedCommunication> communications;         // each that is different, once
  std::deque<RecordedWait> waits;                            // stay where they are
  std::vector<std::pair<std::uint32_t, Collective>> places;  // channel and kind, by ChannelPlace
  std::vector<std::uint32_t> report_rows;  // of `report.channels`, by ChannelPlace
  RankReport report;                       // all but times

  bool issues_the_same(const Recording& o) const;
};

// How long a host is busy with a record; with a wait, when it is over.
Time cost_of(const Record& record, const HostCosts& costs);
// What each stream is issued, and when by a host that never waits.
std::vector<StreamScript> scripts_of(const Recording& recording, const HostCosts& costs);

// One recording per class of ranks.
struct SharedProgram {
  Partition classes;
  std::vector<Recording> recordings;
};

// Why a program cannot be issued for several ranks at once, or ranks cannot be folded.
struct Refusal {
  std::string why;
  Site site;
  // "why (file:line)".
  std::string text() const { return site.line == 0 ? why : why + " (" + to_string(site) + ")"; }
};

// Records `program` for as few classes of ranks as it allows: ranks are told apart by the
// coordinates that it asks for, and by what their GPU and host cost. Where it asks for its part
// (Rank::part), the last rank of each class and the last along each of these axes are recorded too,
// and must issue the same, or the axis tells ranks apart as well. Nothing when
// it asks for more, or needs more than `most_classes`; then `refusal` says for what and where.
// Throws what the program throws.
std::optional<SharedProgram> record_program(const WorldOptions& options, const Machine& machine,
                                            const std::function<Catalogue&(int)>& catalogue,
                                            const World::Program& program,
                                            std::uint32_t most_classes, Refusal& refusal);

}  // namespace orrery::sim
