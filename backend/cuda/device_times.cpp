// What a device knows of an operation that has ended: where the time went, by events.
#include <algorithm>

#include "backend/cuda/device.hpp"

namespace orrery::cuda {

using host::Part;

namespace {

StreamObserver::What what(const Issued& operation) {
  using What = StreamObserver::What;
  if (operation.kind == Issued::Kind::fence) return What::wait;
  if (operation.kind == Issued::Kind::communicate) return What::communication;
  switch (operation.work.kind) {
    case WorkItem::Kind::kernel:
      return What::kernel;
    case WorkItem::Kind::sequence:
      return What::sequence;
    default:
      return What::copy;
  }
}

// Of a sequence whose kernels were timed; the last has what is left of all.
std::vector<Time> kernel_lengths(const Issued& operation, Time length) {
  std::vector<Time> lengths;
  if (operation.kernel_ends.empty()) return lengths;
  cudaEvent_t from = operation.begin;
  for (const cudaEvent_t end : operation.kernel_ends) {
    lengths.push_back(std::min(length, between(from, end)));
    length = length - lengths.back();
    from = end;
  }
  lengths.push_back(length);
  return lengths;
}

}  // namespace

void CudaDevice::retire(std::uint32_t index, const Issued& operation) {
  GpuStream& stream = *streams_[index];
  const bool compute = index == compute_stream();
  const Time idle_since = stream.clock();
  const Time gap = stream.gap(operation), begin = stream.clock();
  const Time length = stream.length(operation), end = stream.clock();
  const std::vector<Time> kernels = kernel_lengths(operation, length);
  if (compute) {
    stream.spend_on_host(operation.host_waited, gap);
    for (const host::HostWait& wait : operation.host_waits)
      account_exposed(wait.stream, std::max(wait.from, idle_since), std::min(wait.to, begin));
  }
  switch (operation.kind) {
    case Issued::Kind::compute:
      stream.spend(Part::compute, length);
      if (compute) note_work(operation, length, kernels);
      break;
    case Issued::Kind::fence:
      stream.spend(host::waiting_for(streams_[operation.fenced_by.stream]->traffic()), length);
      if (compute) account_exposed(operation.fenced_by.stream, begin, end);
      break;
    case Issued::Kind::communicate: {
      stream.spend(host::waiting_for(stream.traffic()), length);
      const std::size_t use = stream.use_of(operation.channel, operation.collective);
      stream.uses[use].second.busy += length;
      if (compute) stream.uses[use].second.exposed += length;
      stream.recent.push_back({begin, end, use});
      while (!stream.recent.empty() &&
             stream.recent.front().end <= streams_[compute_stream()]->clock())
        stream.recent.pop_front();  // the compute stream was past it when it began to wait
    }
  }
  observe_operation(index, operation, begin, end, kernels);
  // Before anyone sees that the operation is done: then the rank may report.
  while (!stream.marks.empty() && stream.marks.front().first <= operation.ordinal) {
    end_step(stream.marks.front().second, end);
    stream.marks.erase(stream.marks.begin());
  }
  for (const cudaEvent_t event : operation.kernel_ends) events_.give_back(event);
  stream.retire(events_);
  parts_.in_flight.fetch_sub(1);
}

void CudaDevice::note_work(const Issued& operation, Time length, std::span<const Time> kernels) {
  if (kernels.empty()) return work_.add(operation.work, length);
  const auto& sequence = *static_cast<const Sequence*>(operation.work.what);
  for (std::size_t step = 0; step < kernels.size(); ++step)
    work_.add(WorkItem::of(sequence, step), kernels[step]);
}

void CudaDevice::observe_operation(std::uint32_t index, const Issued& operation, Time begin,
                                   Time end, std::span<const Time> kernels) const {
  observe(index, what(operation), operation.label, begin, end);
  for (std::size_t step = 0; step < kernels.size(); ++step) {
    const auto& sequence = *static_cast<const Sequence*>(operation.work.what);
    const Time until = begin + kernels[step];
    observe(index, StreamObserver::What::kernel, sequence.steps()[step].kernel.kernel->kernel.label,
            begin, until);
    begin = until;
  }
}

// The compute stream, or the host that it lacked work from, waited for stream `other` in
// [from, to].
void CudaDevice::account_exposed(std::uint32_t other, Time from, Time to) {
  GpuStream& stream = *streams_[other];
  for (const Interval& interval : stream.recent) {
    const Time begin = std::max(interval.begin, from), end = std::min(interval.end, to);
    if (begin < end) stream.uses[interval.use].second.exposed += end - begin;
  }
}

void CudaDevice::end_step(std::int64_t step, Time at) {
  note_step(step, {at, streams_[compute_stream()]->parts()});
  work_.step_ended();
}

}  // namespace orrery::cuda
