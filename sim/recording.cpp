#include "sim/recording.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "backend/device.hpp"
#include "backend/rank.hpp"
#include "sim/sim_rank.hpp"

namespace orrery::sim {

namespace {

// Leaves a program that has asked for something that a recording cannot know. Not a std::exception,
// so that its handlers let it pass.
struct Asked {
  Identity identity;
  Axes axes;
  Site site;
};

// What a recording may not depend on, and what it came to know.
struct Knowledge {
  const Grid& grid;
  Axes told_apart;   // axes whose coordinates may be asked for
  Axes parts_asked;  // others, of which a part was

  Axes unknown(Axes axes) const {
    Axes result;
    for (int i = 0; i < axis_count; ++i) {
      const Axis axis = static_cast<Axis>(i);
      if (axes.contains(axis) && !told_apart.contains(axis) && grid.size(axis) > 1)
        result = result | axis;
    }
    return result;
  }
};

// Every operation is over as soon as it is issued.
class Recorder final : public Device {
 public:
  Recorder(WorldState& state, Knowledge& knowledge, Recording& to, int rank)
      : state_(state), knowledge_(knowledge), to_(to), rank_(rank) {
    host_.flow_ended = {false};
  }

  void asks(Identity identity, Axes axes, Site site) override {
    const Axes unknown = knowledge_.unknown(axes);
    if (identity == Identity::part)
      knowledge_.parts_asked = knowledge_.parts_asked | unknown;
    else if (identity != Identity::coordinate || !unknown.empty())
      throw Asked{identity, unknown, site};
  }

  void open_stream(std::uint32_t stream, const std::string& name, Place) override {
    host_.passed.push_back(0);
    to_.streams.push_back(name);
    add(RecordKind::open_stream, stream);
  }
  void* map(const Storage&) override { return nullptr; }
  void unmap(void*, const Storage&, Event) override {}

  void launch(std::uint32_t stream, const PreparedKernel& kernel, std::span<const Operand>,
              std::uint32_t) override {
    if (kernel.kernel.op == Op::custom) throw Asked{Identity::values, {}, {}};
    add(RecordKind::kernel, stream, &kernel);
  }
  void launch(std::uint32_t stream, const Sequence& sequence, std::span<const Operand>) override {
    add(RecordKind::sequence, stream, &sequence);
  }
  void copy(std::uint32_t stream, const Operand& from, const Operand& to) override {
    add(RecordKind::copy, stream, &copy_price(state_.catalogue(rank_), from, to));
  }
  void upload(std::uint32_t stream, const Operand&, std::span<const double>) override {
    add(RecordKind::upload, stream);
  }
  void fence(std::uint32_t stream, Event event) override {
    add(RecordKind::fence, stream, nullptr, static_cast<std::uint32_t>(event.ordinal),
        event.stream);
  }
  void communicate(
      std::uint32_t stream, Channel& channel, const Communication& communication,
      const std::vector<std::pair<const Communicator*, std::uint64_t>>& others) override {
    // A member named by its number must be alone of its class.
    if (communication.kind == Collective::exchange)
      asks(Identity::coordinate, channel.axes(), communication.site);
    Rendezvous& operation = communication.communicator->issue(communication, others, false);
    if (operation.issued == operation.expected) communication.communicator->retire(operation);
    const std::uint32_t number = number_of(communication, channel_number(channel));
    add(RecordKind::communication, stream, nullptr, number,
        place_of(to_.communications[number].channel, communication.kind));
  }
  void mark_step(std::uint32_t stream, std::int64_t step) override {
    Record record = make(RecordKind::mark, stream, nullptr, static_cast<std::uint32_t>(step), 0);
    to_.records.push_back(record);
  }

  HostState& host() override { return host_; }
  std::uint32_t current_flow() override { return 0; }
  bool block(const Wait& wait) override {
    ORRERY_ASSERT(wait.kind == Wait::Kind::events && wait.events.size() == 1,
                  "a recorded program waits for one event at a time");
    RecordedWait& kept = to_.waits.emplace_back(RecordedWait{wait.events[0], wait});
    kept.wait.events = std::span(&kept.event, 1);
    to_.records.push_back(
        make(RecordKind::wait, 0, nullptr, static_cast<std::uint32_t>(to_.waits.size() - 1), 0));
    return true;
  }
  bool done(Event) override { return true; }
  std::exception_ptr failure(Event) override { return nullptr; }
  Time now() override { return {}; }
  void fork(std::uint32_t, const std::string&, std::function<void()>) override {}
  void raise(Signal&) override {}
  void take(Signal&) override {}
  void send(int, ControlMessage) override {}
  ControlMessage take_message(Tag, int) override { return {}; }

  void finish(const Rank& rank) {
    fill_from(rank, to_.report);
    std::vector<std::pair<std::uint32_t, Collective>> rows;
    for (const auto& channel : rank.channels())
      for (const ChannelUse& use : channel->uses())
        rows.emplace_back(channel_number(*channel), use.kind);
    for (const auto& place : to_.places)
      to_.report_rows.push_back(
          static_cast<std::uint32_t>(std::find(rows.begin(), rows.end(), place) - rows.begin()));
  }

 private:
  static Record make(RecordKind kind, std::uint32_t stream, const void* pointer,
                     std::uint32_t number, std::uint32_t place) {
    return {pointer, number, static_cast<std::uint16_t>(place), kind,
            static_cast<std::uint8_t>(stream)};
  }
  void add(RecordKind kind, std::uint32_t stream, const void* pointer = nullptr,
           std::uint32_t number = 0, std::uint32_t place = 0) {
    if (kind != RecordKind::open_stream) ++host_.passed[stream];
    to_.records.push_back(make(kind, stream, pointer, number, place));
  }

  std::uint32_t channel_number(const Channel& channel) {
    const auto known = std::find(channels_.begin(), channels_.end(), &channel);
    if (known != channels_.end()) return static_cast<std::uint32_t>(known - channels_.begin());
    channels_.push_back(&channel);
    to_.channels.push_back({channel.axes(), channel.offset(), channel.edge(), channel.lane()});
    return static_cast<std::uint32_t>(channels_.size() - 1);
  }

  std::uint32_t place_of(std::uint32_t channel, Collective kind) {
    const std::pair wanted(channel, kind);
    const auto known = std::find(to_.places.begin(), to_.places.end(), wanted);
    const auto place = static_cast<std::uint32_t>(known - to_.places.begin());
    if (known == to_.places.end()) to_.places.push_back(wanted);
    return place;
  }

  std::uint32_t number_of(const Communication& communication, std::uint32_t channel) {
    RecordedCommunication wanted{communication, channel};
    wanted.communication.in = wanted.communication.out = {};
    wanted.communication.member = 0;
    wanted.communication.communicator = nullptr;
    if (channel >= by_channel_.size()) by_channel_.resize(channel + 1);
    for (const std::uint32_t known : by_channel_[channel])
      if (to_.communications[known] == wanted) return known;
    const auto number = static_cast<std::uint32_t>(to_.communications.size());
    to_.communications.push_back(wanted);
    by_channel_[channel].push_back(number);
    return number;
  }

  WorldState& state_;
  Knowledge& knowledge_;
  Recording& to_;
  int rank_;
  HostState host_;
  std::vector<const Channel*> channels_;
  std::vector<std::vector<std::uint32_t>> by_channel_;  // its communications
};

Recording record(WorldState& state, Knowledge& knowledge, const World::Program& program, int rank) {
  Recording recording;
  Recorder recorder(state, knowledge, recording, rank);
  Rank handle(state, recorder, rank);
  program(handle);
  recorder.finish(handle);
  return recording;
}

// By the coordinates that are told apart, and by what GPU and host cost.
Partition classes_of(const Knowledge& knowledge, const Machine& machine) {
  Partition partition;
  std::map<std::array<std::uint64_t, axis_count + 4>, std::uint32_t> numbers;
  for (int rank = 0; rank < knowledge.grid.size(); ++rank) {
    const HostCosts host = machine.host(rank);
    std::array<std::uint64_t, axis_count + 4> key{
        static_cast<std::uint64_t>(machine.kind(rank)), host.launch.picoseconds,
        host.communicate.picoseconds, host.wait.picoseconds};
    for (int i = 0; i < axis_count; ++i)
      if (knowledge.told_apart.contains(static_cast<Axis>(i)))
        key[static_cast<std::size_t>(4 + i)] =
            static_cast<std::uint64_t>(knowledge.grid.coordinate(rank, static_cast<Axis>(i)));
    const auto [entry, fresh] = numbers.try_emplace(key, partition.classes());
    if (fresh) {
      partition.representatives.push_back(rank);
      partition.sizes.push_back(0);
    }
    partition.class_of.push_back(entry->second);
    ++partition.sizes[entry->second];
  }
  return partition;
}

std::vector<int> last_of_classes(const Partition& partition) {
  std::vector<int> last(partition.classes());
  for (std::size_t rank = 0; rank < partition.class_of.size(); ++rank)
    last[partition.class_of[rank]] = static_cast<int>(rank);
  return last;
}

// Records programs for ranks of classes.
class Recordings {
 public:
  Recordings(const WorldOptions& options, const std::function<Catalogue&(int)>& catalogue,
             const World::Program& program, Knowledge& knowledge)
      : options_(options), catalogue_(catalogue), program_(program), knowledge_(knowledge) {}

  std::vector<Recording> of_representatives(const Partition& classes) {
    std::vector<Recording> all;
    WorldState state(options_);
    prepare(state, classes);
    for (const int rank : classes.representatives)
      all.push_back(record(state, knowledge_, program_, rank));
    return all;
  }

  // Of the axes along which parts were asked for, those along which ranks of a class issue
  // different operations: seen on the last rank of each class, which is the last along all of them,
  // and on the last along each. Of one axis these know the same.
  Axes differing_parts(const SharedProgram& shared) {
    const Axes asked = knowledge_.parts_asked;
    if (asked.empty()) return asked;
    const bool one = asked == Axes(asked.first());
    const std::vector<int> last = last_of_classes(shared.classes);
    Axes differing;
    for (std::uint32_t c = 0; c < shared.classes.classes(); ++c) {
      const bool all_alike = same(shared, c, last[c]);
      Axes own;
      for (int i = 0; i < axis_count && !(one && all_alike); ++i) {
        const Axis axis = static_cast<Axis>(i);
        const int first = shared.classes.representatives[c], along = options_.grid.size(axis) - 1;
        if (asked.contains(axis) && !same(shared, c, options_.grid.rank_with(first, axis, along)))
          own = own | axis;
      }
      differing = differing | (own.empty() && !all_alike ? asked : own);
    }
    return differing;
  }

 private:
  void prepare(WorldState& state, const Partition& classes) const {
    state.catalogue = catalogue_;
    state.communicators.set_partition(&classes);
  }
  bool same(const SharedProgram& shared, std::uint32_t number, int rank) {
    if (shared.classes.class_of[static_cast<std::size_t>(rank)] != number ||
        shared.classes.represents(rank))
      return true;
    WorldState state(options_);
    prepare(state, shared.classes);
    return record(state, knowledge_, program_, rank).issues_the_same(shared.recordings[number]);
  }

  const WorldOptions& options_;
  const std::function<Catalogue&(int)>& catalogue_;
  const World::Program& program_;
  Knowledge& knowledge_;
};

}  // namespace

bool RecordedCommunication::operator==(const RecordedCommunication& o) const {
  const Communication &a = communication, &b = o.communication;
  return channel == o.channel && a.elements == b.elements && a.kind == b.kind &&
         a.reduce == b.reduce && a.root == b.root && a.peer == b.peer && a.dtype == b.dtype &&
         a.site.line == b.site.line &&
         (a.site.file == b.site.file || std::string_view(a.site.file) == b.site.file);
}

bool Recording::issues_the_same(const Recording& o) const {
  const auto same_wait = [](const RecordedWait& a, const RecordedWait& b) {
    return a.event.stream == b.event.stream && a.event.ordinal == b.event.ordinal;
  };
  return records == o.records && streams == o.streams && channels == o.channels &&
         communications == o.communications && places == o.places && report.peak == o.report.peak &&
         report.host_peak == o.report.host_peak &&
         std::equal(waits.begin(), waits.end(), o.waits.begin(), o.waits.end(), same_wait);
}

Time cost_of(const Record& record, const HostCosts& costs) {
  switch (record.kind) {
    case RecordKind::open_stream:
    case RecordKind::mark:
      return Time{};
    case RecordKind::wait:
      return costs.wait;
    case RecordKind::communication:
      return costs.communicate;
    case RecordKind::sequence:
      return costs.launch * static_cast<const Sequence*>(record.pointer)->steps().size();
    default:
      return costs.launch;
  }
}

std::vector<StreamScript> scripts_of(const Recording& recording, const HostCosts& costs) {
  std::vector<StreamScript> scripts(recording.streams.size());
  Time clock;
  for (const Record& record : recording.records) {
    StreamScript& script = scripts[record.stream];
    const Time launched = clock + costs.launch;
    switch (record.kind) {
      case RecordKind::open_stream:
      case RecordKind::wait:
        break;
      case RecordKind::mark:
        script.push_back(Entry(EntryKind::mark, clock, record.number));
        break;
      case RecordKind::kernel:
        script.push_back(Entry(EntryKind::kernel, launched, record.pointer));
        break;
      case RecordKind::sequence:  // launched is its first kernel
        script.push_back(Entry(EntryKind::sequence, launched, record.pointer));
        break;
      case RecordKind::copy:
        script.push_back(Entry(EntryKind::copy, launched, record.pointer));
        break;
      case RecordKind::upload:
        script.push_back(Entry(EntryKind::upload, launched, nullptr));
        break;
      case RecordKind::fence:
        script.push_back(Entry::fence(launched, {record.place, record.number}));
        break;
      case RecordKind::communication:
        script.push_back(Entry(EntryKind::meeting, clock + costs.communicate,
                               &recording.communications[record.number], record.place));
        break;
    }
    clock += cost_of(record, costs);
  }
  return scripts;
}

std::optional<SharedProgram> record_program(const WorldOptions& options, const Machine& machine,
                                            const std::function<Catalogue&(int)>& catalogue,
                                            const World::Program& program,
                                            std::uint32_t most_classes, Refusal& refusal) {
  Knowledge knowledge{options.grid, {}, {}};
  Recordings recordings(options, catalogue, program, knowledge);
  for (;;) {
    SharedProgram shared;
    shared.classes = classes_of(knowledge, machine);
    if (shared.classes.classes() > most_classes) return std::nullopt;
    knowledge.parts_asked = {};
    try {
      shared.recordings = recordings.of_representatives(shared.classes);
      const Axes differing = recordings.differing_parts(shared);
      if (differing.empty()) return shared;
      refusal = {"ranks issue different operations for their parts along " + differing.to_string(),
                 {}};
      knowledge.told_apart = knowledge.told_apart | differing;
    } catch (const Asked& asked) {
      refusal = {std::string("the program asks for ") + name(asked.identity) +
                     (asked.axes.empty() ? "" : " along " + asked.axes.to_string()),
                 asked.site};
      if (asked.identity != Identity::coordinate) return std::nullopt;
      knowledge.told_apart = knowledge.told_apart | asked.axes;
    }
  }
}

}  // namespace orrery::sim
