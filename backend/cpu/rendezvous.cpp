#include "backend/cpu/rendezvous.hpp"

#include <algorithm>
#include <cstring>

#include "backend/cpu/racy.hpp"
#include "backend/reference_collectives.hpp"

namespace orrery {

namespace cpu {

std::string Meeting::describe(std::uint32_t mine) const {
  const Communicator& communicator = *rendezvous->communicator;
  const Collective kind = !communicator.edge() ? rendezvous->first.kind
                          : mine == 0          ? Collective::send
                                               : Collective::receive;
  std::string text = std::string(name(kind)) + " #" + std::to_string(rendezvous->sequence) +
                     " on " + communicator.name() + " (" + to_string(rendezvous->parts[mine].site) +
                     ")";
  const std::vector<int> missing = rendezvous->missing();
  const auto list = [&text](const char* what, const std::vector<int>& ranks) {
    if (ranks.empty()) return;
    text += what;
    for (std::size_t i = 0; i < ranks.size(); ++i)
      text += (i > 0 ? ", " : " ") + std::to_string(ranks[i]);
  };
  list("; not issued by rank", missing);
  std::vector<int> behind;
  const std::vector<int>& members = rendezvous->communicator->members();
  for (std::size_t i = 0; i < rendezvous->parts.size(); ++i) {
    const Rendezvous::Part& part = rendezvous->parts[i];
    if (!part.issued || part.arrived) continue;
    std::size_t member = i;
    if (rendezvous->first.kind == Collective::exchange) {
      const auto [low, high] = std::minmax(rendezvous->first.member, rendezvous->first.peer);
      member = static_cast<std::size_t>(i == 0 ? low : high);
    }
    behind.push_back(members[member]);
  }
  list("; not reached by the stream of rank", behind);
  return text;
}

Meeting& Meetings::issue(const Communication& communication,
                         const std::vector<std::pair<const Communicator*, std::uint64_t>>& others,
                         View in, View out, std::mutex* racy, std::uint32_t& part) {
  Rendezvous& rendezvous = communication.communicator->issue(communication, others, true);
  if (rendezvous.world == 0) {
    if (free_.empty()) free_.push_back(meetings_.emplace_back(std::make_unique<Meeting>()).get());
    Meeting* fresh = free_.back();
    free_.pop_back();
    *fresh = Meeting{};
    fresh->rendezvous = &rendezvous;
    fresh->racy.resize(static_cast<std::size_t>(rendezvous.expected));
    rendezvous.world = reinterpret_cast<std::uintptr_t>(fresh);
  }
  auto& meeting = *reinterpret_cast<Meeting*>(rendezvous.world);
  part = static_cast<std::uint32_t>(rendezvous.part_index(communication.member));
  rendezvous.parts[part].in = in;
  rendezvous.parts[part].out = out;
  meeting.racy[part] = racy;
  meeting.virtual_values = meeting.virtual_values ||
                           (communication.in && in.data == nullptr && in.elements > 0) ||
                           (communication.out && out.data == nullptr && out.elements > 0);
  return meeting;
}

// The last member has come: computes what everyone receives, and takes the time that a slow link
// would. Inputs are read when this starts; outputs are written, by their members, when it is over.
void Meetings::carry_out(Meeting& meeting, Entity& worker) {
  const Rendezvous& rendezvous = *meeting.rendezvous;
  const Instant start = std::chrono::steady_clock::now();
  if (meeting.failure == nullptr && !meeting.virtual_values) {
    std::vector<View> inputs;
    std::vector<std::unique_ptr<std::byte[]>> copies;
    for (std::size_t i = 0; i < rendezvous.parts.size(); ++i) {
      View& in = inputs.emplace_back(rendezvous.parts[i].in);
      if (meeting.racy[i] == nullptr) continue;
      const auto bytes = static_cast<std::size_t>(bytes_of(in.elements, in.dtype).value);
      copies.push_back(std::make_unique<std::byte[]>(bytes));
      const std::lock_guard lock(*meeting.racy[i]);
      racy_copy(copies.back().get(), in.data, bytes);
      in.data = copies.back().get();
    }
    try {
      meeting.results = collective_result(rendezvous.first, inputs);
    } catch (...) {
      meeting.failure =
          with_context(std::current_exception(), {{"operation", rendezvous.describe()}});
    }
  }
  if (!throttle_) return;
  const Time length = throttled_time(*throttle_, rendezvous.first.kind, rendezvous.first.size(),
                                     rendezvous.communicator->edge() ? 2 : rendezvous.expected);
  Lock lock(monitor_.mutex());
  monitor_.block(lock, worker, start + std::chrono::nanoseconds((length.picoseconds + 999) / 1000));
}

bool Meetings::has_ended(int rank) const {
  return static_cast<std::size_t>(rank) < ended_.size() && ended_[static_cast<std::size_t>(rank)];
}

void Meetings::rank_ended(int rank) {
  const auto place = static_cast<std::size_t>(rank);
  if (place >= ended_.size()) ended_.resize(place + 1);
  ended_[place] = true;
  for (const auto& meeting : meetings_)
    if (meeting->rendezvous != nullptr) look_for_lost(*meeting);
}

// Where it waits only for ranks that have ended, its time begins to run.
void Meetings::look_for_lost(Meeting& meeting) {
  const Rendezvous& rendezvous = *meeting.rendezvous;
  if (rendezvous.first.patience == time_never || meeting.done || meeting.given_up_at) return;
  const std::vector<int> missing = rendezvous.missing();
  const auto lacking = static_cast<int>(missing.size());
  if (lacking == 0 || rendezvous.arrived + lacking < rendezvous.expected) return;
  if (!std::ranges::all_of(missing, [this](int rank) { return has_ended(rank); })) return;
  meeting.given_up_at = monitor_.instant(monitor_.now() + rendezvous.first.patience);
  for (Entity* member : meeting.waiting) monitor_.make_ready(*member);
}

void Meetings::wait_for_end(Lock& lock, Meeting& meeting, Entity& worker) {
  look_for_lost(meeting);
  meeting.waiting.push_back(&worker);
  while (!meeting.done) {
    if (monitor_.block(lock, worker, meeting.given_up_at)) continue;
    meeting.lost = meeting.rendezvous->missing();
    meeting.rendezvous->expected = meeting.rendezvous->arrived;
    meeting.done = true;
    for (Entity* other : meeting.waiting) monitor_.make_ready(*other);
  }
}

Attended Meetings::attend(Meeting& meeting, std::uint32_t part, Entity& worker,
                          const std::exception_ptr& failure, std::mutex* racy_out) {
  Rendezvous& rendezvous = *meeting.rendezvous;
  Lock lock(monitor_.mutex());
  rendezvous.parts[part].arrived = true;
  if (meeting.failure == nullptr) meeting.failure = failure;
  if (++rendezvous.arrived == rendezvous.expected) {
    lock.unlock();
    carry_out(meeting, worker);
    lock.lock();
    meeting.done = true;
    for (Entity* other : meeting.waiting) monitor_.make_ready(*other);
  } else {
    wait_for_end(lock, meeting, worker);
  }
  Attended outcome{meeting.failure, meeting.lost};
  const bool values = outcome.failure == nullptr && outcome.lost.empty() && !meeting.virtual_values;
  lock.unlock();
  if (values) {
    const View out = rendezvous.parts[part].out;
    const auto bytes = result_for(rendezvous.first, meeting.results, static_cast<int>(part));
    if (out.data != nullptr && !bytes.empty()) {
      if (racy_out != nullptr) {
        const std::lock_guard racy(*racy_out);
        racy_copy(out.data, bytes.data(), bytes.size());
      } else {
        std::memcpy(out.data, bytes.data(), bytes.size());
      }
    }
  }
  lock.lock();
  leave(meeting);
  return outcome;
}

void Meetings::leave(Meeting& meeting) {
  Rendezvous& rendezvous = *meeting.rendezvous;
  if (++rendezvous.finished < rendezvous.expected) return;
  rendezvous.communicator->retire(rendezvous);
  if (meeting.failure != nullptr) monitor_.keep(std::exchange(meeting.failure, nullptr));
  meeting.results.clear();
  meeting.rendezvous = nullptr;
  free_.push_back(&meeting);
}

}  // namespace cpu

}  // namespace orrery
