#include "sim/streams.hpp"

#include <algorithm>
#include <utility>

#include "sim/collectives.hpp"
#include "sim/cursor.hpp"
#include "sim/interference.hpp"
#include "sim/shared_cores.hpp"
#include "sim/time_account.hpp"
#include "sim/values.hpp"

namespace orrery::sim {

StreamState::StreamState() = default;
StreamState::~StreamState() = default;

StreamState& StreamState::sibling(std::uint32_t other) {
  const bool near = all_together || other / neighbours == index / neighbours;
  return near ? *(this - index + other) : device->stream(other);
}

void EntryQueue::grow() {
  const std::uint32_t capacity = entries_ == nullptr ? 8 : 2 * (mask_ + 1);
  auto ring = std::make_unique<Entry[]>(capacity);
  const std::uint32_t entries = size();
  for (std::uint32_t i = 0; i < entries; ++i) ring[i] = at(i);
  delete[] std::exchange(entries_, ring.release());
  mask_ = capacity - 1;
  head_ = 0;
  tail_ = entries;
}

namespace {

// Calls `kernel(kernel, start, end)` for each kernel of a sequence that begins at `start`, and
// returns its end. Kernel k starts no earlier than its own launch, k launches after the first:
// exactly as if all were launched one by one. `end_of(kernel, start)` is when one ends.
template <class EndOf, class Each>
Time walk_sequence(const Sequence& sequence, Time start, Time issued, Time launch,
                   const EndOf& end_of, const Each& kernel) {
  Time at = start;
  Time launched = issued;
  for (const Sequence::Step& step : sequence.steps()) {
    at = std::max(at, launched);
    const Time end = end_of(*step.kernel.kernel, at);
    kernel(*step.kernel.kernel, at, end);
    at = end;
    launched += launch;
  }
  return at;
}

}  // namespace

// What the durations of an operation's kernels are multiplied by.
double Streams::factor_of(const StreamState& stream, const Entry& entry,
                          std::uint64_t ordinal) const {
  const Variability& variability = core_.options.variability;
  if (variability.none()) return 1;
  if (!variability.jitters()) return variability.slowness(stream.rank);
  const std::uint64_t key = Key{stream.rank, stream.index, ordinal}.packed();
  Drawn& drawn = drawn_[key * 0x9e37'79b9'7f4a'7c15 >> (64 - drawn_bits)];
  if (drawn.key != key) drawn = {key, drawn_factor(stream, entry, ordinal)};
  return drawn.factor;
}

double Streams::drawn_factor(const StreamState& stream, const Entry& entry,
                             std::uint64_t ordinal) const {
  const double unevenness =
      entry.kind() == EntryKind::sequence ? entry.pointer<const Sequence>()->unevenness() : 1;
  return core_.options.variability.factor(stream.rank, stream.index, ordinal, unevenness);
}

bool Streams::disturbed(const StreamState& stream, Time start) const {
  if (core_.interference == nullptr) return false;
  const Presence* const presence = core_.interference->presence(stream.rank);
  return presence != nullptr && !presence->quiet_from(start);
}

Time Streams::kernel_end(const StreamState& stream, const PreparedKernel& kernel, Time start,
                         double factor) const {
  if (disturbed(stream, start))
    return core_.interference->end_of(*stream.device, kernel, start, factor);
  return start + Variability::scaled(kernel.duration, factor);
}

// When an operation ends that begins at `start`.
Time Streams::end_of(const StreamState& stream, const Entry& entry, std::uint64_t ordinal,
                     Time start) const {
  const double factor = factor_of(stream, entry, ordinal);
  switch (entry.kind()) {
    case EntryKind::kernel:
    case EntryKind::copy:
      return kernel_end(stream, *entry.pointer<const PreparedKernel>(), start, factor);
    case EntryKind::sequence: {
      const auto& sequence = *entry.pointer<const Sequence>();
      const Time launch = stream.device->launch_cost();
      if (launch == Time{} && !disturbed(stream, start))
        return start + Variability::scaled(sequence.duration(), factor);
      return walk_sequence(
          sequence, start, entry.issued(), launch,
          [&](const PreparedKernel& kernel, Time at) {
            return kernel_end(stream, kernel, at, factor);
          },
          [](const PreparedKernel&, Time, Time) {});
    }
    default:
      return start;
  }
}

void Streams::start(StreamState& stream) {
  core_.now = core_.engine.now();
  advance(stream);
  if (!ready_.empty()) run_ready();
}

// Goes through the queue until a head has to wait for something.
void Streams::advance(StreamState& stream) {
  while (!stream.queue.empty()) {
    const Entry entry = stream.queue.front();
    const Time now = core_.now;
    const Time start = std::max(now, entry.issued());
    switch (entry.kind()) {
      case EntryKind::mark:
        stream.phase = StreamPhase::mark;  // whatever the head before it was
        if (start > now) {
          core_.engine.schedule(start, core_.extra_key(stream.rank),
                                make_payload(Due::stream_wakes, &stream));
          return;
        }
        stream.device->note_step(stream, static_cast<std::int64_t>(entry.number()), start);
        pop(stream);
        break;
      case EntryKind::fence:
        if (begin_fence(stream, entry, start)) return;
        break;
      case EntryKind::meeting:
        begin_communication(stream, static_cast<SimCursor*>(stream.device)->meet(entry), start);
        return;
      case EntryKind::communication:
        begin_communication(stream, *entry.pointer<Transfer>(), start);
        return;
      default:
        if (begin_operation(stream, entry, start)) return;
        break;
    }
  }
  stream.phase = StreamPhase::empty;
  if (stream.is_compute) stream.device->compute_gap_begins();
}

void Streams::begin_communication(StreamState& stream, Transfer& transfer, Time start) {
  stream.phase = StreamPhase::communicating;
  stream.began = start;
  if (stream.is_compute) stream.device->account().starved(start);
  core_.collectives->arrive(stream, transfer, start);
}

// In the list by ordinal, each with that of the next: who looks whether it is a waiter's turn does
// not have to look at the waiter.
void Streams::add_waiter(StreamState& target, StreamState& waiter) {
  StreamState** link = &target.first_waiter;
  std::uint32_t* wanted = &target.first_wanted;
  while (*wanted < waiter.waits_until) {
    StreamState& earlier = **link;
    link = &earlier.next_waiter;
    wanted = &earlier.next_wanted;
  }
  waiter.next_waiter = std::exchange(*link, &waiter);
  waiter.next_wanted = std::exchange(*wanted, waiter.waits_until);
}

// Whether the stream has to wait.
bool Streams::begin_fence(StreamState& stream, const Entry& entry, Time start) {
  stream.began = start;
  if (stream.is_compute) stream.device->account().starved(start);
  StreamState& target = stream.sibling(entry.event().stream);
  stream.waits_for = &target;
  stream.waits_until = static_cast<std::uint32_t>(entry.event().ordinal);
  if (target.passed < entry.event().ordinal) settle(target);
  if (target.passed < entry.event().ordinal) {
    expect(target, entry.event().ordinal);
    stream.phase = StreamPhase::fence;
    add_waiter(target, stream);
    return true;
  }
  if (core_.delivering) {
    end_fence(stream);
    return false;
  }
  stream.phase = StreamPhase::fence_passes;
  stream.due = core_.now;
  core_.engine.schedule(core_.now, {stream.rank, stream.index, stream.head()},
                        make_payload(Due::operation, &stream));
  return true;
}

bool Streams::begin_operation(StreamState& stream, const Entry& entry, Time start) {
  stream.began = start;
  if (stream.is_compute) stream.device->account().starved(start);
  if (core_.shared_cores != nullptr && stream.phase != StreamPhase::running)
    core_.shared_cores->changed(stream.rank);
  stream.phase = StreamPhase::running;
  stream.run_end = stream.passed + 1;
  const bool poisoned = stream.poisoned;
  stream.head_values = entry.extra() == with_values;
  if (stream.head_values && !poisoned && stream.values->front().races()) {
    core_.engine.schedule(start, core_.racy_read_key(),
                          make_payload(Due::operation_reads, &stream));
    return true;
  }
  const Time end = poisoned ? start : end_of(stream, entry);
  if (core_.delivering && end == core_.now) {
    end_operation(stream);
    return false;
  }
  schedule_end(stream, end);
  return true;
}

// The head ends at `end`, alone or in a run.
void Streams::schedule_end(StreamState& stream, Time end) {
  const bool alone = stream.poisoned || stream.head_values || core_.trace != nullptr ||
                     disturbed(stream, stream.began);
  stream.due = alone ? end : begin_run(stream, end);
  core_.engine.schedule(stream.due, {stream.rank, stream.index, stream.run_end},
                        make_payload(Due::operation, &stream));
}

void Streams::retime(SimRank& rank) {
  for (StreamState* const stream : rank.streams()) {
    if (stream->phase != StreamPhase::running || stream->due == time_never || stream->poisoned)
      continue;
    const Time end = end_of(*stream, stream->queue.front());
    if (end == stream->due && stream->run_end == stream->passed + 1) continue;
    stream->run_end = stream->passed + 1;
    if (stream->head_values && stream->values->front().races())
      schedule_racy_end(*stream, end);
    else
      schedule_end(*stream, end);
  }
}

void Streams::schedule_racy_end(StreamState& stream, Time end) {
  stream.due = end;
  core_.engine.schedule(end, Core::racy_write_key(stream.rank, stream.index, stream.head()),
                        make_payload(Due::operation, &stream));
}

// ---- Runs

// When an operation of the queue ends that the stream comes to at `at`; time_never if that depends
// on what is yet to happen. A fence passes when it is come to, as it does alone.
Time Streams::foreseen_end(StreamState& stream, const Entry& entry, std::uint64_t ordinal,
                           Time at) const {
  switch (entry.kind()) {
    case EntryKind::kernel:
    case EntryKind::sequence:
    case EntryKind::copy:
    case EntryKind::upload:
      if (entry.extra() == with_values) return time_never;
      return end_of(stream, entry, ordinal, std::max(at, entry.issued()));
    case EntryKind::fence: {
      const StreamState& target = stream.sibling(entry.event().stream);
      return target.passed >= entry.event().ordinal && !target.poisoned ? at : time_never;
    }
    default:
      return time_never;
  }
}

// The head ends at `end`; as many as possible of those behind it join its run, whose end is
// returned. A run goes no further than to what somebody waits for, and its last is no fence.
Time Streams::begin_run(StreamState& stream, Time end) {
  const std::uint64_t watched = std::min(stream.host_threshold, stream.first_wanted);
  Time at = end;
  std::uint32_t ordinal = stream.run_end;
  for (std::uint32_t place = 1; place < stream.queue.size() && ordinal < watched; ++place) {
    if (!stream.queue.is_known(place)) break;
    const Entry entry = stream.queue.at(place);
    at = foreseen_end(stream, entry, ++ordinal, at);
    if (at == time_never) break;
    if (entry.kind() == EntryKind::fence) continue;
    stream.run_end = ordinal;
    end = at;
  }
  return end;
}

void Streams::expect(StreamState& stream, std::uint64_t ordinal) {
  settle(stream);
  if (stream.phase != StreamPhase::running || ordinal >= stream.run_end || ordinal <= stream.passed)
    return;
  Time at = end_of(stream, stream.queue.front());
  std::uint32_t place = 0;
  for (std::uint64_t next = stream.head() + 1; next <= ordinal; ++next) {
    const Entry entry = stream.queue.at(++place);
    if (entry.kind() != EntryKind::fence)
      at = end_of(stream, entry, next, std::max(at, entry.issued()));
  }
  core_.engine.schedule(at, {stream.rank, stream.index, ordinal},
                        make_payload(Due::stream_settles, &stream));
}

void Streams::catch_up(StreamState& stream) {
  const Time now = core_.engine.now();
  Time end = end_of(stream, stream.queue.front());
  while (end <= now && stream.passed + 1 < stream.run_end) {
    if (stream.is_compute && stream.queue.front().kind() != EntryKind::fence)
      account_operation(stream, stream.queue.front(), end);
    pass(stream, end);
    // The next one of the run begins.
    const Entry entry = stream.queue.front();
    const Time start = std::max(end, entry.issued());
    stream.began = start;
    if (stream.is_compute) stream.device->account().starved(start);
    if (entry.kind() != EntryKind::fence) end = end_of(stream, entry);
  }
}

void Streams::settle_due(StreamState& stream) {
  settle(stream);
  if (!ready_.empty()) run_ready();
}

// ---- Ends

void Streams::reads_due(StreamState& stream) {
  stream.values->front().take_copies();
  schedule_racy_end(stream, end_of(stream, stream.queue.front()));
}

void Streams::operation_due(StreamState& stream) {
  if (stream.due != core_.now) return;
  stream.due = time_never;
  stream.queue.prefetch_next();
  if (stream.phase == StreamPhase::fence_passes) {
    end_fence(stream);
  } else {
    settle(stream);
    end_operation(stream);
  }
  advance(stream);
  if (core_.shared_cores != nullptr && stream.phase != StreamPhase::running)
    core_.shared_cores->changed(stream.rank);
  if (!ready_.empty()) run_ready();
}

void Streams::wakes(StreamState& stream) {
  advance(stream);
  if (!ready_.empty()) run_ready();
}

Time Streams::computing(const StreamState& stream, const Entry& entry) const {
  const auto& sequence = *entry.pointer<const Sequence>();
  const double factor = factor_of(stream, entry, stream.head());
  if (!disturbed(stream, stream.began)) return Variability::scaled(sequence.duration(), factor);
  Time sum;
  walk_sequence(
      sequence, stream.began, entry.issued(), stream.device->launch_cost(),
      [&](const PreparedKernel& kernel, Time at) { return kernel_end(stream, kernel, at, factor); },
      [&](const PreparedKernel&, Time at, Time until) { sum += until - at; });
  return sum;
}

void Streams::account_operation(StreamState& stream, const Entry& entry, Time end) const {
  Time computed = end - stream.device->account().until();
  if (core_.options.host_clock && entry.kind() == EntryKind::sequence)
    computed = std::min(computed, computing(stream, entry));
  if (core_.options.work_times) note_work(stream, entry, computed);
  stream.device->account().computed(computed, end);
}

void Streams::note_work(const StreamState& stream, const Entry& entry, Time computed) const {
  WorkTimes& work = stream.device->work();
  switch (entry.kind()) {
    case EntryKind::kernel:
      return work.add(WorkItem::of(*entry.pointer<const PreparedKernel>()), computed);
    case EntryKind::sequence:
      return work.add(WorkItem::of(*entry.pointer<const Sequence>()), computed);
    case EntryKind::copy:
      return work.add(WorkItem::copy(), computed);
    case EntryKind::upload:
      return work.add(WorkItem::upload(), computed);
    default:
      return;
  }
}

// Looks at the entry only where it must: it is a miss of its own.
void Streams::end_operation(StreamState& stream) {
  if (stream.is_compute) account_operation(stream, stream.queue.front(), core_.now);
  if (core_.trace != nullptr) trace_operation(stream, stream.queue.front());
  if (stream.head_values) {
    if (!stream.poisoned) {
      try {
        stream.values->front().carry_out(core_.state.options.bodies);
      } catch (...) {
        poison(stream, stream.head(), stream.device->failure_here(stream));
      }
    }
    stream.values->pop_front();
  }
  pass(stream, core_.now);
}

void Streams::end_fence(StreamState& stream) {
  const StreamState& target = *std::exchange(stream.waits_for, nullptr);
  if (stream.is_compute) stream.device->account().waited(target.wait_class, core_.now);
  if (target.poisoned && target.poisoned_from <= stream.waits_until)
    poison(stream, stream.head(), stream.device->poison_of(target));
  pass(stream, core_.now);
}

void Streams::communication_ended(StreamState& stream, WaitClass wait) {
  if (stream.is_compute) stream.device->account().waited(wait, core_.now);
  pass(stream, core_.now);
  ready_.push_back(&stream);
}

void Streams::pop(StreamState& stream) {
  if (stream.queue.pop() && !stream.queue.empty())
    stream.queue.set_late(static_cast<SimCursor*>(stream.device)->lateness());
}

// The head has ended. Whoever waits for it is woken, but nothing starts yet.
void Streams::pass(StreamState& stream, Time at) {
  pop(stream);
  const std::uint32_t ordinal = ++stream.passed;
  core_.end = std::max(core_.end, at);
  while (stream.first_wanted <= ordinal) {
    StreamState& waiter = *stream.first_waiter;
    stream.first_waiter = std::exchange(waiter.next_waiter, nullptr);
    stream.first_wanted = std::exchange(waiter.next_wanted, ~std::uint32_t{0});
    ready_.push_back(&waiter);
  }
  if (ordinal >= stream.host_threshold) stream.device->reconsider();
}

void Streams::run_ready() {
  if (running_ready_) return;
  running_ready_ = true;
  while (!ready_.empty()) {
    StreamState& stream = *ready_.back();
    ready_.pop_back();
    if (stream.phase == StreamPhase::fence) end_fence(stream);
    advance(stream);
  }
  running_ready_ = false;
}

void Streams::poison(StreamState& stream, std::uint64_t ordinal, std::exception_ptr failure) {
  if (stream.poisoned) return;
  stream.poisoned = true;
  stream.poisoned_from = static_cast<std::uint32_t>(ordinal);
  stream.device->poison_of(stream) = std::move(failure);
}

void Streams::trace_operation(const StreamState& stream, const Entry& entry) const {
  const Track track{stream.rank, stream.index};
  const Time end = core_.now;
  switch (entry.kind()) {
    case EntryKind::kernel:
    case EntryKind::copy:
      core_.trace->slice(track, "kernel", entry.pointer<const PreparedKernel>()->kernel.label,
                         stream.began, end);
      return;
    case EntryKind::sequence: {
      const auto& sequence = *entry.pointer<const Sequence>();
      core_.trace->slice(track, "sequence", sequence.name(), stream.began, end);
      if (stream.poisoned) return;
      walk_sequence(
          sequence, stream.began, entry.issued(), stream.device->launch_cost(),
          [&, factor = factor_of(stream, entry, stream.head())](const PreparedKernel& kernel,
                                                                Time at) {
            return kernel_end(stream, kernel, at, factor);
          },
          [&](const PreparedKernel& kernel, Time at, Time until) {
            core_.trace->slice(track, "kernel", kernel.kernel.label, at, until);
          });
      return;
    }
    default:
      return;
  }
}

}  // namespace orrery::sim
