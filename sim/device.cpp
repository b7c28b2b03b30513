// Issuing: what a rank's program asks of its device becomes entries of queues.
#include "sim/device.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "sim/collectives.hpp"
#include "sim/mail.hpp"
#include "sim/streams.hpp"
#include "sim/values.hpp"

namespace orrery::sim {

SimDevice::SimDevice(Core& core, std::uint32_t id)
    : core_(core),
      id_(id),
      costs_(core.machine.host(static_cast<int>(id))),
      host_clock_(core.options.host_clock) {
  if (!host_clock_) costs_.launch = costs_.communicate = costs_.wait = Time{};
  flows_.push_back(std::make_unique<HostFlow>());
  flows_[0]->device = this;
  flows_[0]->name = "main";
  host_.flow_ended.push_back(false);
}

SimDevice::~SimDevice() {
  rank_.reset();  // frees tensors through this device
  for (const Unmapped& memory : unmapped_) std::free(memory.data);
}

void SimDevice::open_stream(std::uint32_t stream, const std::string& name, Place) {
  ORRERY_ASSERT(stream == streams_.size(), "streams are opened in order");
  if (stream % StreamState::neighbours == 0)
    stream_blocks_.push_back(std::make_unique<StreamState[]>(StreamState::neighbours));
  StreamState& fresh = stream_blocks_.back()[stream % StreamState::neighbours];
  fresh.device = this;
  fresh.rank = id_;
  fresh.index = static_cast<std::uint16_t>(stream);
  if (compute_ == nullptr || name == "compute") {
    if (compute_ != nullptr) compute_->is_compute = false;
    compute_ = &fresh;
    compute_->is_compute = true;
  }
  if (core_.trace != nullptr) {
    if (stream == 0) core_.trace->name_rank(id_);
    core_.trace->name_stream({id_, stream}, name);
  }
  streams_.push_back(&fresh);
  host_.passed.push_back(0);
  poison_.emplace_back();
}

void* SimDevice::map(const Storage& storage) {
  if (!core_.state.options.real_values && storage.values != Values::always) return nullptr;
  has_values_ = true;
  free_unmapped();
  constexpr std::size_t line = 64;
  const auto bytes = static_cast<std::size_t>(storage.bytes().value);
  const std::size_t size = std::max(line, (bytes + line - 1) / line * line);
  void* data = std::aligned_alloc(line, size);
  if (data == nullptr) throw std::bad_alloc();
  return std::memset(data, 0, size);
}

// Operations that use the memory may still be queued; all are ordered before `after`.
void SimDevice::unmap(void* data, const Storage&, Event after) {
  unmapped_.push_back({data, after});
}

void SimDevice::free_unmapped() {
  std::erase_if(unmapped_, [this](const Unmapped& memory) {
    const bool over = streams_[memory.after.stream]->passed >= memory.after.ordinal;
    if (over) std::free(memory.data);
    return over;
  });
}

inline void SimDevice::push(StreamState& stream, const Entry& entry, Time cost) {
  baton_->clock += cost;
  stream.queue.push(entry);
  ++stream.issued;
  if (stream.phase == StreamPhase::empty) {
    if (stream.is_compute) stream.account.host_blocked(baton_->blocked_time - baton_->at_gap);
    core_.streams->start(stream);
  }
  if (&stream == compute_) compute_issuer_ = baton_;
  if (stream.issued - stream.passed >= core_.options.launch_queue) wait_for_room(stream);
}

// Half of the queue: a host that waited for each single place would change stacks per operation.
void SimDevice::wait_for_room(StreamState& stream) {
  HostFlow& flow = *baton_;
  flow.room = {stream.index, stream.issued - core_.options.launch_queue / 2};
  flow.wait_class = stream.wait_class;
  flow.blocked_from = flow.clock;
  suspend(flow, HostFlow::Blocked::queue);
}

ValueOperation& SimDevice::with_value_operation(StreamState& stream) {
  if (stream.values == nullptr) stream.values = std::make_unique<std::deque<ValueOperation>>();
  return stream.values->emplace_back();
}

// The issue time of an operation is the host's clock when the call that issues it returns.
void SimDevice::launch(std::uint32_t stream, const PreparedKernel& kernel,
                       std::span<const Operand> operands, std::uint32_t roles) {
  StreamState& s = *streams_[stream];
  std::uint32_t extra = 0;
  if ((has_values_ && any_values(operands)) ||
      (operands.empty() && kernel.kernel.op == Op::custom)) {
    ValueOperation& operation = with_value_operation(s);
    operation.kernel = &kernel;
    operation.set_operands(operands, roles);
    extra = with_values;
  }
  push(s, Entry(EntryKind::kernel, baton_->clock + costs_.launch, &kernel, extra), costs_.launch);
}

void SimDevice::launch(std::uint32_t stream, const Sequence& sequence,
                       std::span<const Operand> operands) {
  StreamState& s = *streams_[stream];
  std::uint32_t extra = 0;
  if (any_values(operands)) {
    ValueOperation& operation = with_value_operation(s);
    operation.sequence = &sequence;
    operation.set_operands(operands, sequence.roles());
    extra = with_values;
  }
  // The host issues each of its kernels.
  const Time cost = costs_.launch * sequence.steps().size();
  push(s, Entry(EntryKind::sequence, baton_->clock + costs_.launch, &sequence, extra), cost);
}

void SimDevice::copy(std::uint32_t stream, const Operand& from, const Operand& to) {
  StreamState& s = *streams_[stream];
  const PreparedKernel& price =
      *core_.state.catalogue(static_cast<int>(id_))
           .prepare(Kernel::streaming("copy", from.elements(), to.elements(), from.storage->dtype,
                                      {Role::read, Role::write}))
           .kernel;
  const Operand operands[2] = {from, to};
  std::uint32_t extra = 0;
  if (any_values(operands)) {
    with_value_operation(s).set_operands(operands, price.kernel.roles);
    extra = with_values;
  }
  push(s, Entry(EntryKind::copy, baton_->clock + costs_.launch, &price, extra), costs_.launch);
}

void SimDevice::upload(std::uint32_t stream, const Operand& to, std::span<const double> values) {
  StreamState& s = *streams_[stream];
  with_value_operation(s).set_upload(to, values);
  push(s, Entry(EntryKind::upload, baton_->clock + costs_.launch, nullptr, with_values),
       costs_.launch);
}

void SimDevice::fence(std::uint32_t stream, Event event) {
  push(*streams_[stream], Entry::fence(baton_->clock + costs_.launch, event), costs_.launch);
}

void SimDevice::communicate(
    std::uint32_t stream, Channel& channel, const Communication& communication,
    const std::vector<std::pair<const Communicator*, std::uint64_t>>& others) {
  StreamState& s = *streams_[stream];
  const auto known = std::find_if(places_.begin(), places_.end(), [&](const ChannelPlace& place) {
    return place.channel == &channel && place.kind == communication.kind;
  });
  const auto place = static_cast<std::uint32_t>(known - places_.begin());
  if (known == places_.end())
    places_.push_back({&channel, communication.kind, communication.member, Time{}, Time{}});
  const WaitClass wait = channel.edge() ? WaitClass::edge : WaitClass::collective;
  if (s.wait_class != WaitClass::collective) s.wait_class = wait;
  Transfer& transfer = core_.collectives->issue(communication, others);
  push(s, Entry(EntryKind::communication, baton_->clock + costs_.communicate, &transfer, place),
       costs_.communicate);
}

void SimDevice::mark_step(std::uint32_t stream, std::int64_t step) {
  StreamState& s = *streams_[stream];
  s.queue.push(Entry(EntryKind::mark, baton_->clock, static_cast<std::uint64_t>(step)));
  if (s.phase != StreamPhase::empty) return;
  if (s.is_compute) s.account.host_blocked(baton_->blocked_time - baton_->at_gap);
  core_.streams->start(s);
}

}  // namespace orrery::sim
