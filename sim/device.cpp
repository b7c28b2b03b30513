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

SimDevice::SimDevice(Core& core, std::uint32_t id) : SimRank(core, id) {
  host_.flow_ended.push_back(false);
}

SimDevice::~SimDevice() {
  rank_.reset();  // frees tensors through this device
  for (const Unmapped& memory : unmapped_) std::free(memory.data);
}

void SimDevice::open_stream(std::uint32_t stream, const std::string& name, Place) {
  ORRERY_ASSERT(stream == streams_.size(), "streams are opened in order");
  add_stream(name);
  host_.passed.push_back(0);
}

const std::string& SimDevice::stream_name(std::uint32_t index) const {
  return rank_->streams()[index]->name();
}

void* SimDevice::map(const Storage& storage) {
  if (!core_.state.options.real_values && storage.values != Values::always) return nullptr;
  has_values_ = true;
  free_unmapped();
  const auto bytes = static_cast<std::size_t>(storage.bytes().value);
  const std::size_t line = bytes <= 16 ? 16 : 64;  // a scalar, of which ranks have several
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
  stream.queue.push(entry);
  if (!issued(*baton_, stream, cost)) return;
  wants_room(*baton_, stream);
  suspend(*baton_, HostFlow::Blocked::queue);
}

ValueOperation& SimDevice::with_value_operation(StreamState& stream) {
  if (stream.values == nullptr) stream.values = std::make_unique<std::list<ValueOperation>>();
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
  const PreparedKernel& price = copy_price(core_.state.catalogue(static_cast<int>(id_)), from, to);
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
  const auto known = std::find(uses_.begin(), uses_.end(), std::pair(&channel, communication.kind));
  const auto place = static_cast<std::uint32_t>(known - uses_.begin());
  if (known == uses_.end()) {
    uses_.emplace_back(&channel, communication.kind);
    places_.push_back({communication.member, nullptr, Time{}, Time{}});
  }
  note_wait_class(s, channel.edge() ? WaitClass::edge : WaitClass::collective);
  Transfer& transfer = core_.collectives->issue(communication, others);
  push(s, Entry(EntryKind::communication, baton_->clock + costs_.communicate, &transfer, place),
       costs_.communicate);
}

void SimDevice::mark_step(std::uint32_t stream, std::int64_t step) {
  StreamState& s = *streams_[stream];
  s.queue.push(Entry(EntryKind::mark, baton_->clock, static_cast<std::uint64_t>(step)));
  mark_issued(*baton_, s);
}

void SimDevice::fill_report(RankReport& report) {
  report.steps = std::move(steps_);
  if (work_ != nullptr) report.work = work_->rows();
  for (std::size_t i = 0; i < places_.size(); ++i) {
    ChannelUse& use = uses_[i].first->use(uses_[i].second);
    use.busy += places_[i].busy;
    use.exposed += places_[i].exposed;
  }
  fill_from(*rank_, report);
  decisions_ = std::move(rank_->decisions());
  rank_->decisions() = {};
}

}  // namespace orrery::sim
