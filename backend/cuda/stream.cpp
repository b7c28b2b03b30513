#include "backend/cuda/stream.hpp"

#include <algorithm>

namespace orrery::cuda {

GpuStream::GpuStream(std::string name, Place place, cudaEvent_t origin, Time origin_time)
    : name_(std::move(name)), place_(place), last_(origin), clock_(origin_time) {
  check(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  spend(host::Part::overhead, origin_time);
}

GpuStream::~GpuStream() {
  finish(handle_);
  for (const Issued& operation : pending_) {
    for (const cudaEvent_t event : operation.kernel_ends) cudaEventDestroy(event);
    cudaEventDestroy(operation.begin);
    cudaEventDestroy(operation.end);
  }
  if (own_last_) cudaEventDestroy(last_);
}

Issued& GpuStream::open(Issued::Kind kind, int commands, cudaEvent_t begin, cudaEvent_t end) {
  Issued& operation = pending_.emplace_back();
  operation.kind = kind;
  operation.commands = commands;
  commands_ += commands;
  operation.ordinal = ++issued_;
  operation.begin = begin;
  operation.end = end;
  return operation;
}

Issued* GpuStream::hold(std::uint64_t ordinal) {
  if (pending_.empty() || ordinal < pending_.front().ordinal) return nullptr;
  Issued& operation = pending_[static_cast<std::size_t>(ordinal - pending_.front().ordinal)];
  ++operation.held;
  return &operation;
}

// An event that was never recorded counts as done for CUDA, so only what is submitted is asked for.
Issued* GpuStream::finished() {
  if (pending_.empty() || pending_.front().ordinal > submitted_ || pending_.front().held > 0)
    return nullptr;
  const cudaError_t state = cudaEventQuery(pending_.front().end);
  if (state == cudaErrorNotReady) return nullptr;
  check(state, pending_.front().label);
  return &pending_.front();
}

void GpuStream::retire(EventPool& events) {
  const Issued& operation = pending_.front();
  if (own_last_) events.give_back(last_);
  events.give_back(operation.begin);
  last_ = operation.end;
  own_last_ = true;
  const std::uint64_t ordinal = operation.ordinal;
  commands_ -= operation.commands;
  pending_.pop_front();
  passed_.store(ordinal, std::memory_order_seq_cst);
}

Time GpuStream::gap(const Issued& operation) {
  const Time gap = between(last_, operation.begin);
  clock_ += gap;
  return gap;
}

Time GpuStream::length(const Issued& operation) {
  const Time length = between(operation.begin, operation.end);
  clock_ += length;
  return length;
}

void GpuStream::spend_on_host(const host::PartTimes& waited, Time gap) {
  for (std::size_t part = 0; part < host::part_count; ++part) {
    const Time of = std::min(gap, waited[part] - host_waited_[part]);
    parts_[part] += of;
    gap = gap - of;
  }
  host_waited_ = waited;
  spend(host::Part::overhead, gap);
}

TimeParts GpuStream::parts() const {
  const auto part = [this](host::Part p) { return parts_[static_cast<std::size_t>(p)]; };
  return {part(host::Part::compute), part(host::Part::exposed_communication),
          part(host::Part::bubble), part(host::Part::overhead), part(host::Part::idle)};
}

std::size_t GpuStream::use_of(const Channel* channel, Collective kind) {
  for (std::size_t i = 0; i < uses.size(); ++i)
    if (uses[i].first == channel && uses[i].second.kind == kind) return i;
  uses.push_back({channel, {kind, 0, Bytes(0), Time{}, Time{}}});
  return uses.size() - 1;
}

}  // namespace orrery::cuda
