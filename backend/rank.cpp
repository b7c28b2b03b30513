#include "backend/rank.hpp"

#include <algorithm>

#include "backend/device.hpp"
#include "backend/world.hpp"

namespace orrery {

Rank::Rank(WorldState& world, Device& device, int id)
    : world_(world),
      device_(device),
      id_(id),
      device_ledger_(world.options.device_capacity),
      host_ledger_(world.options.host_capacity) {
  decisions_.mode = world.options.decisions;
  if (decisions_.replaying()) {
    if (static_cast<std::size_t>(id) >= world.options.replay.size())
      throw Error(Category::replay, "the decision log is of a run with " +
                                        std::to_string(world.options.replay.size()) + " ranks");
    decisions_.decisions = world.options.replay[static_cast<std::size_t>(id)].decisions;
  }
}

Rank::~Rank() {
  for (auto& home : pending_refunds_)
    for (Storage* storage : home) refund(*storage);
}

int Rank::id(Site site) const {
  device_.asks(Identity::number, {}, site);
  return id_;
}
int Rank::coordinate(Axis axis, Site site) const {
  device_.asks(Identity::coordinate, axis, site);
  return world_.options.grid.coordinate(id_, axis);
}
int Rank::part(Axes axes) const {
  device_.asks(Identity::part, axes, {});
  return world_.options.grid.index_in_group(id_, axes);
}
int Rank::size(Axes axes) const { return world_.options.grid.size(axes); }
bool Rank::computes_values() const { return world_.options.real_values; }
std::uint64_t Rank::seed() const { return world_.options.seed; }

void Rank::check_setup(std::string_view what) const {
  if (communicated_)
    throw Error(Category::invalid_program,
                std::string(what) +
                    " is opened after the rank's first communication; open channels in set-up")
        .with("rank", std::to_string(id_));
}

Channel& Rank::channel(Axes axes, std::string_view lane) {
  // Axes of size one add no members; without them the name says who communicates.
  Axes present;
  for (int i = 0; i < axis_count; ++i)
    if (const Axis axis = static_cast<Axis>(i); axes.contains(axis) && size(axis) > 1)
      present = present | axis;
  if (!present.empty()) axes = present;
  const std::string group = axes.to_string();
  for (const auto& open : channels_)
    if (open->group_ == group && open->lane_ == lane) return *open;
  check_setup("channel " + group + "/" + std::string(lane));
  auto fresh = std::make_unique<Channel>();
  fresh->group_ = group;
  fresh->lane_ = lane;
  fresh->device_ = &device_;
  fresh->axes_ = present;
  fresh->named_axes_ = axes;
  fresh->out_ = fresh->in_ = &world_.communicators.group(id_, axes, fresh->lane_);
  fresh->whole_ = fresh->out_;
  fresh->size_ = fresh->out_->size();
  fresh->index_ = world_.communicators.index_in_group(id_, axes, *fresh->out_);
  return *channels_.emplace_back(std::move(fresh));
}

void Rank::notice_losses(Channel& channel, Seconds deadline, Site site) {
  device_.asks(Identity::time, {}, site);
  device_.may_change(channel);
  ORRERY_ASSERT(!channel.edge(), "losses are noticed in groups");
  channel.patience_ = to_time(deadline);
}

void Rank::regroup(Channel& channel, const std::vector<int>& ranks, Site site) {
  device_.asks(Identity::time, {}, site);  // who is there may depend on it
  device_.may_change(channel);
  const auto mine = std::find(ranks.begin(), ranks.end(), id_);
  if (channel.edge() || mine == ranks.end() || !std::is_sorted(ranks.begin(), ranks.end()) ||
      !std::ranges::includes(channel.whole_->members(), ranks))
    throw Error(Category::invalid_program,
                "a group is made anew of ranks that it was opened with, this one among them, "
                "ascending")
        .with("channel", channel.name())
        .with("site", to_string(site));
  channel.out_ = channel.in_ = &world_.communicators.subgroup(*channel.whole_, ranks);
  channel.size_ = channel.out_->size();
  channel.index_ = static_cast<int>(mine - ranks.begin());
}

Channel& Rank::edge(Axis axis, int offset, std::string_view lane) {
  const int size = world_.options.grid.size(axis);
  if (size < 2 || offset % size == 0)
    throw Error(Category::invalid_program, std::string("an edge along axis ") + name(axis) +
                                               " of size " + std::to_string(size) +
                                               " leads back to this rank");
  const std::string group =
      std::string(name(axis)) + (offset < 0 ? "" : "+") + std::to_string(offset);
  for (const auto& open : channels_)
    if (open->group_ == group && open->lane_ == lane) return *open;
  check_setup("edge " + group + "/" + std::string(lane));
  auto fresh = std::make_unique<Channel>();
  fresh->group_ = group;
  fresh->lane_ = lane;
  fresh->device_ = &device_;
  fresh->edge_ = true;
  fresh->offset_ = offset;
  fresh->named_axes_ = axis;
  const int here = world_.options.grid.coordinate(id_, axis);
  const int previous =
      world_.options.grid.rank_with(id_, axis, ((here - offset) % size + size) % size);
  fresh->out_ = &world_.communicators.edge(id_, axis, offset, fresh->lane_);
  fresh->in_ = &world_.communicators.edge(previous, axis, offset, fresh->lane_);
  fresh->size_ = 2;
  return *channels_.emplace_back(std::move(fresh));
}

const std::vector<std::pair<const Communicator*, std::uint64_t>>& Rank::issued_elsewhere(
    const Channel& channel) {
  issued_elsewhere_.clear();
  // Groups over disjoint axes have no two ranks in common, whose orders could differ.
  for (const auto& other : channels_)
    if (other.get() != &channel && !other->edge() && other->axes_.intersects(channel.axes_))
      issued_elsewhere_.emplace_back(&other->outgoing(), other->outgoing().issued(other->index_));
  return issued_elsewhere_;
}

Stream& Rank::stream(std::string_view stream_name, Place place) {
  for (const auto& open : streams_)
    if (open->name() == stream_name) return *open;
  if (streams_.size() == max_streams)
    throw Error(Category::invalid_program,
                "a rank has at most " + std::to_string(max_streams) + " streams")
        .with("stream", std::string(stream_name));
  const auto index = static_cast<std::uint32_t>(streams_.size());
  streams_.push_back(
      std::make_unique<Stream>(*this, device_, index, std::string(stream_name), place));
  Stream& fresh = *streams_.back();
  fresh.clock_.learn(1, host_clock_.first(streams_.size()), streams_.size());
  pending_refunds_.emplace_back();
  device_.open_stream(index, fresh.name(), place);
  return fresh;
}

Prepared Rank::prepare(const Kernel& kernel) {
  const Prepared prepared = world_.catalogue(id_).prepare(kernel);
  if (prepared.kernel->workspace > workspace_) {
    reserve(Label::workspace, prepared.kernel->workspace - workspace_);
    workspace_ = prepared.kernel->workspace;
  }
  return prepared;
}

const Sequence& Rank::sequence(const std::string& key,
                               const std::function<void(Sequence&)>& build) {
  const Sequence& sequence = world_.catalogue(id_).sequence(key, build);
  device_.prepare(sequence);
  return sequence;
}

// ---- Waits
// ------------------------------------------------------------------------------------------------------------------

// What the host has waited for is ordered before everything it issues from now on, on every stream.
void Rank::host_learned(Event event) {
  const auto ordinal = static_cast<std::uint32_t>(event.ordinal);
  if (event.ordinal <= host_clock_[event.stream]) return;
  host_clock_.merge(streams_[event.stream]->clock_.at(ordinal));
  host_clock_.raise(event.stream, ordinal);
  for (const auto& stream : streams_) {
    stream->clock_.learn(stream->ordinal_ + 1, host_clock_.first(streams_.size()), streams_.size());
    stream->clock_.forget_before(host_clock_[stream->index_]);
  }
  for (std::uint32_t home = 0; home < pending_refunds_.size(); ++home) refund_pending(home);
}

// A stream asks only for what it does not know yet, and the host learns from what all streams know
// nothing that it could tell them.
void Rank::forget_past(Stream& stream) {
  std::uint32_t known = stream.ordinal_;
  for (const auto& other : streams_)
    if (other.get() != &stream) known = std::min(known, other->clock_.now()[stream.index_]);
  stream.clock_.forget_before(known);
}

void Rank::waited(Event event) {
  if (const std::exception_ptr failure = device_.failure(event)) std::rethrow_exception(failure);
  host_learned(event);
  throw_if_lost(event);
}

void Rank::throw_if_lost(Event event) {
  if (const std::optional<Loss> loss = device_.take_loss(event)) throw RankLost(*loss);
}

void Rank::wait(Event event, Site site) {
  if (event.ordinal > streams_[event.stream]->ordinal_)
    throw Error(Category::invalid_program, "waiting for an operation that has not been issued")
        .with("site", to_string(site));
  const Event events[1] = {event};
  Wait wait;
  wait.kind = Wait::Kind::events;
  wait.events = events;
  wait.flow = device_.current_flow();
  wait.site = site;
  device_.block(wait);
  waited(event);
}

// A wait that the log says was in vain: other flows had their turn meanwhile, and have it now.
bool Rank::replay_missed(Site site) {
  sleep(Seconds(0), site);
  return false;
}

bool Rank::wait(Event event, Seconds timeout, Site site) {
  device_.asks(Identity::time, {}, site);
  const std::uint32_t flow = device_.current_flow();
  if (decisions_.replaying()) {
    if (decisions_.next(DecisionKind::timed_wait, flow, site) == 0) return replay_missed(site);
    wait(event, site);
    return true;
  }
  const std::size_t place = decisions_.reserve(DecisionKind::timed_wait, flow);
  const Event events[1] = {event};
  Wait timed;
  timed.kind = Wait::Kind::events;
  timed.events = events;
  timed.flow = flow;
  timed.site = site;
  timed.deadline = timeout >= Seconds(1e6) ? time_never : device_.now() + to_time(timeout);
  const bool done = device_.block(timed);
  decisions_.fill(place, done ? 1 : 0);
  if (!done) return false;
  waited(event);
  return true;
}

std::size_t Rank::wait_any(std::span<const Event> events, Site site) {
  device_.asks(Identity::time, {}, site);
  if (events.empty())
    throw Error(Category::invalid_program, "wait_any needs an event").with("site", to_string(site));
  const std::uint32_t flow = device_.current_flow();
  if (decisions_.replaying()) {
    const auto chosen =
        static_cast<std::size_t>(decisions_.next(DecisionKind::wait_any, flow, site));
    if (chosen >= events.size())
      throw Error(Category::replay, "the log chose event " + std::to_string(chosen) + " of " +
                                        std::to_string(events.size()));
    wait(events[chosen], site);
    return chosen;
  }
  const std::size_t place = decisions_.reserve(DecisionKind::wait_any, flow);
  Wait any;
  any.kind = Wait::Kind::events;
  any.events = events;
  any.flow = flow;
  any.site = site;
  device_.block(any);
  std::size_t chosen = 0;
  while (!device_.done(events[chosen])) ++chosen;
  decisions_.fill(place, static_cast<std::int64_t>(chosen));
  waited(events[chosen]);
  return chosen;
}

bool Rank::poll(Event event, Site site) {
  device_.asks(Identity::time, {}, site);
  const std::uint32_t flow = device_.current_flow();
  if (decisions_.replaying()) {
    if (decisions_.next(DecisionKind::poll, flow, site) == 0) return false;
    wait(event, site);
    return true;
  }
  const bool done = device_.done(event);
  decisions_.record(DecisionKind::poll, flow, done ? 1 : 0);
  if (done) {
    fruitless_polls_ = 0;
    wait(event, site);  // as a replay must, so that flows take turns alike
    return true;
  }
  const Time now = device_.now();
  if (now != last_poll_) fruitless_polls_ = 0;
  last_poll_ = now;
  if (++fruitless_polls_ > 1'000'000)
    throw Error(Category::livelock,
                "a million polls at one instant found nothing new: time stands still while a "
                "program polls; wait instead")
        .with("rank", std::to_string(id_))
        .with("flow", std::to_string(flow))
        .with("site", to_string(site))
        .with("time", std::to_string(now.seconds().value) + " s");
  return false;
}

void Rank::sleep(Seconds duration, Site site) {
  device_.asks(Identity::time, {}, site);
  Wait wait;
  wait.kind = Wait::Kind::time;
  wait.flow = device_.current_flow();
  wait.site = site;
  wait.deadline = device_.now() + to_time(duration);
  device_.block(wait);
}

Seconds Rank::now(Site site) {
  device_.asks(Identity::time, {}, site);
  const std::uint32_t flow = device_.current_flow();
  if (decisions_.replaying())
    return Time(static_cast<std::uint64_t>(decisions_.next(DecisionKind::clock, flow, site)))
        .seconds();
  const Time now = device_.now();
  decisions_.record(DecisionKind::clock, flow, static_cast<std::int64_t>(now.picoseconds));
  return now.seconds();
}

Random& Rank::rng(Purpose purpose, Site site) {
  device_.asks(Identity::random, {}, site);
  return rngs_.try_emplace(purpose, world_.options.seed, purpose, static_cast<std::uint32_t>(id_))
      .first->second;
}

Philox Rank::shared_rng(Purpose purpose) const {
  return Philox(world_.options.seed, static_cast<std::uint32_t>(purpose));
}

// ---- Flows and messages
// -----------------------------------------------------------------------------------------------------

Task Rank::fork(std::string_view flow_name, std::function<void()> body, Site site) {
  device_.asks(Identity::flow, {}, site);
  const std::uint32_t flow = flows_++;
  device_.fork(flow, std::string(flow_name), std::move(body));
  return {flow};
}

void Rank::join(const Task& task, Site site) {
  Wait wait;
  wait.kind = Wait::Kind::join;
  wait.flow_joined = task.flow;
  wait.flow = device_.current_flow();
  wait.site = site;
  device_.block(wait);
}

Signal& Rank::signal(std::string_view signal_name) {
  const auto found = signals_.find(signal_name);
  if (found != signals_.end()) return found->second;
  return signals_.try_emplace(std::string(signal_name), std::string(signal_name)).first->second;
}

void Rank::raise(Signal& signal, Site site) {
  device_.asks(Identity::flow, {}, site);
  device_.raise(signal);
}

void Rank::wait(Signal& signal, Site site) {
  device_.asks(Identity::flow, {}, site);
  Wait wait;
  wait.kind = Wait::Kind::signal;
  wait.signal = &signal;
  wait.flow = device_.current_flow();
  wait.site = site;
  device_.block(wait);
  device_.take(signal);
}

void Rank::control_send(int to, Tag tag, std::span<const std::int64_t> values, Site site) {
  device_.asks(Identity::message, {}, site);
  const int last = size(all_axes) + static_cast<int>(world_.services.size());
  if (to < 0 || to >= last)
    throw Error(Category::invalid_program, "control message to " + std::to_string(to) +
                                               "; addresses end at " + std::to_string(last - 1))
        .with("rank", std::to_string(id_))
        .with("site", to_string(site));
  device_.send(to, {id_, tag, std::vector<std::int64_t>(values.begin(), values.end()), site});
}

void Rank::control_send(int to, Tag tag, std::initializer_list<std::int64_t> values, Site site) {
  control_send(to, tag, std::span<const std::int64_t>(values.begin(), values.size()), site);
}

std::optional<ControlMessage> Rank::control_receive(Tag tag, int from, Seconds timeout, Site site) {
  device_.asks(Identity::message, {}, site);
  const std::uint32_t flow = device_.current_flow();
  const bool timed = timeout < Seconds(1e6);
  const bool logged = timed || from == any_source;
  Wait wait;
  wait.kind = Wait::Kind::message;
  wait.tag = tag;
  wait.from = from;
  wait.flow = flow;
  wait.site = site;
  if (logged && decisions_.replaying()) {
    const std::int64_t source = decisions_.next(DecisionKind::receive, flow, site);
    if (source == -2) {
      replay_missed(site);
      return std::nullopt;
    }
    wait.from = static_cast<int>(source);
  } else if (timed) {
    wait.deadline = device_.now() + to_time(timeout);
  }
  const std::size_t place = logged ? decisions_.reserve(DecisionKind::receive, flow) : 0;
  if (!device_.block(wait)) {
    decisions_.fill(place, -2);
    return std::nullopt;
  }
  ControlMessage message = device_.take_message(tag, wait.from);
  if (logged) decisions_.fill(place, message.from);
  return message;
}

int Rank::service(std::string_view service_name) const {
  for (std::size_t i = 0; i < world_.services.size(); ++i)
    if (world_.services[i] == service_name) return size(all_axes) + static_cast<int>(i);
  throw Error(Category::invalid_program,
              "no service is called '" + std::string(service_name) + "'");
}

void Rank::record_loss(std::int64_t step, double loss) { losses_[step] = loss; }

}  // namespace orrery
