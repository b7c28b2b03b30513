#include "backend/cuda/device.hpp"

#include <algorithm>
#include <cstring>

#include "backend/cuda/pinned.hpp"
#include "backend/fp8.hpp"
#include "backend/host/operands.hpp"
#include "backend/rank.hpp"

namespace orrery::cuda {

using host::Lock;
using host::Part;
using host::Traffic;
using host::view_of;

namespace {

const host::Arena::Source pinned_memory{take_pinned, give_back_pinned, false};

std::size_t size(Bytes bytes) { return static_cast<std::size_t>(bytes.value); }

std::array<View, max_operands> views_of(std::span<const Operand> operands) {
  std::array<View, max_operands> views;
  std::transform(operands.begin(), operands.end(), views.begin(), view_of);
  return views;
}

void store_as(Dtype dtype, std::byte* to, std::size_t i, double value) {
  const auto put = [to, i](auto number) {
    std::memcpy(to + i * sizeof number, &number, sizeof number);
  };
  switch (dtype) {
    case Dtype::fp32:
      return put(static_cast<float>(value));
    case Dtype::fp64:
      return put(value);
    case Dtype::bf16:
      return put(to_bf16(static_cast<float>(value)));
    case Dtype::fp16:
      return put(to_fp16(static_cast<float>(value)));
    case Dtype::int32:
      return put(static_cast<std::int32_t>(value));
    case Dtype::int64:
      return put(static_cast<std::int64_t>(value));
    case Dtype::fp8:
      return put(to_fp8(static_cast<float>(value)));
    case Dtype::uint8:
    case Dtype::fp4:
      return put(static_cast<std::uint8_t>(value));
  }
}

}  // namespace

CudaDevice::CudaDevice(host::Shared& shared, CudaParts& parts, int rank)
    : HostDevice(shared, rank),
      parts_(parts),
      gpu_(parts.options.gpu(rank)),
      regions_(parts.options.profiler.get(), rank),
      pinned_([this](Event event) { return passed(event.stream) >= event.ordinal; },
              pinned_memory) {
  use_gpu(gpu_);
  reserve_pinned_memory();
  const auto failed = [this](std::exception_ptr failure) {
    const std::exception_ptr named =
        host::with_context(failure, {{"rank", std::to_string(this->rank())}});
    const Lock lock(monitor().mutex());
    monitor().fail(named);
  };
  launcher_ = parts.options.launcher(gpu_, failed);
  host_launcher_ = make_host_launcher(parts.host_bodies, failed);
  transport::Waiting waiting;
  waiting.check = [this] { monitor().throw_if_failed(); };
  waiting.patience = parts.options.patience;
  waiting.clock = parts.options.clock;
  transport_ = parts.options.transport(rank, std::move(waiting));
  keep_host_waits();
  transport_->stream_opened();
  check(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  origin_ = events_.take();
  check(cudaEventRecord(origin_, copies_), "cudaEventRecord");
  wait_for(copies_);
  origin_time_ = now();
}

CudaDevice::~CudaDevice() {
  try_gpu(gpu_);
  transport_->abort();
  for (auto& stream : streams_) stream.reset();
  transport_.reset();
  events_.give_back(origin_);
  finish(copies_);
}

void CudaDevice::open_stream(std::uint32_t stream, const std::string& name, Place place) {
  use_gpu(gpu_);
  transport_->stream_opened();
  auto fresh = std::make_unique<GpuStream>(name, place, origin_, origin_time_);
  const std::lock_guard lock(mutex_);  // the watcher counts streams
  streams_[stream] = std::move(fresh);
  count_stream(name);
}

void CudaDevice::prepare(const Sequence& sequence) {
  if (!prepared_.insert(&sequence).second) return;
  use_gpu(gpu_);
  for (const Sequence::Step& step : sequence.steps()) {
    std::array<std::int64_t, max_operands> elements{};
    for (std::size_t i = 0; i < step.operands.size(); ++i)
      if (step.operands[i].slot >= 0) elements[i] = step.operands[i].elements;
    launcher_->rehearse(copies_, step.kernel.kernel->kernel,
                        std::span(elements).first(step.operands.size()));
  }
}

// ---- Memory

void* CudaDevice::map(const Storage& storage) {
  if (storage.place == Place::host) return pinned_.take(storage.bytes(), storage.home, Place::host);
  use_gpu(gpu_);
  void* data = nullptr;
  check(cudaMallocAsync(&data, std::max<std::size_t>(size(storage.bytes()), 1),
                        streams_[storage.home]->handle()),
        "cudaMallocAsync");
  device_memory_.live += storage.bytes();
  device_memory_.highest = std::max(device_memory_.highest, device_memory_.live);
  return data;
}

// What comes next on the home stream may have the memory; other streams get it when that has come
// to pass. The ledger has seen to it that uses elsewhere are ordered before.
void CudaDevice::unmap(void* data, const Storage& storage, Event after) {
  if (storage.place == Place::host)
    return pinned_.give_back(data, storage.bytes(), storage.home, Place::host, after);
  cudaFreeAsync(data, streams_[storage.home]->handle());
  device_memory_.live = device_memory_.live - storage.bytes();
}

// Until what has been enqueued on `stream` is done, or the run has failed.
void CudaDevice::wait_for(cudaStream_t stream) {
  const cudaEvent_t here = events_.take();
  check(cudaEventRecord(here, stream), "cudaEventRecord");
  cudaError_t state = cudaErrorNotReady;
  while ((state = cudaEventQuery(here)) == cudaErrorNotReady && !monitor().failed())
    std::this_thread::yield();
  events_.give_back(here);
  monitor().throw_if_failed();
  check(state, "cudaEventQuery");
}

// Calls each(offset, bytes, block) for parts of `bytes` that fit a block of pinned memory.
template <class Each>
void CudaDevice::by_blocks(std::size_t bytes, const Each& each) {
  constexpr std::size_t most = std::size_t{4} << 20;
  void* block = take_pinned(std::min(bytes, most));
  for (std::size_t at = 0; at < bytes; at += most) each(at, std::min(most, bytes - at), block);
  give_back_pinned(block);
}

void CudaDevice::read(const Operand& from, void* to) {
  if (from.storage->place == Place::host) return HostDevice::read(from, to);
  use_gpu(gpu_);
  const auto* data = static_cast<const std::byte*>(view_of(from).data);
  by_blocks(size(from.bytes()), [&](std::size_t at, std::size_t bytes, void* block) {
    parts_.options.copy(copies_, block, data + at, bytes);
    wait_for(copies_);
    std::memcpy(static_cast<std::byte*>(to) + at, block, bytes);
  });
}

// On the home stream: the memory may have been given back by operations that still run there.
void CudaDevice::write(const void* from, const Operand& to) {
  use_gpu(gpu_);
  const cudaStream_t home = streams_[to.storage->home]->handle();
  auto* data = static_cast<std::byte*>(view_of(to).data);
  by_blocks(size(to.bytes()), [&](std::size_t at, std::size_t bytes, void* block) {
    std::memcpy(block, static_cast<const std::byte*>(from) + at, bytes);
    parts_.options.copy(home, data + at, block, bytes);
    wait_for(home);
  });
}

// ---- Operations

namespace {

// At most: events around an operation; for each kernel memory, a few launches, copies, an event.
int commands_of(std::size_t kernels) { return 4 + 4 * static_cast<int>(kernels); }

Issued working(const WorkItem& item, std::size_t kernels = 1) {
  Issued more;
  more.work = item;
  more.commands = commands_of(kernels);
  return more;
}

}  // namespace

void CudaDevice::wait_for_room(const GpuStream& stream, int commands) {
  std::unique_lock lock(mutex_);
  while (stream.commands() > 0 && stream.commands() + commands > parts_.options.queue) {
    room_.wait_for(lock, std::chrono::milliseconds(10));
    lock.unlock();
    monitor().throw_if_failed();
    lock.lock();
  }
}

template <class Enqueue>
void CudaDevice::issue(std::uint32_t index, Issued::Kind kind, const char* label,
                       const Enqueue& enqueue, const Issued& more) {
  monitor().throw_if_failed();
  use_gpu(gpu_);
  GpuStream& stream = *streams_[index];
  wait_for_room(stream, more.commands);
  host::PartTimes waited{};
  std::vector<host::HostWait> waits;
  if (index == compute_stream()) {
    const Lock lock(monitor().mutex());
    waited = host_waited(std::chrono::steady_clock::now());
    waits = take_host_waits();
  }
  const cudaEvent_t begin = events_.take(), end = events_.take();
  Issued* operation = nullptr;
  {
    const std::lock_guard lock(mutex_);
    operation = &stream.open(kind, more.commands, begin, end);
    operation->label = label;
    operation->work = more.work;
    operation->site = more.site;
    operation->channel = more.channel;
    operation->collective = more.collective;
    operation->fenced_by = more.fenced_by;
    operation->host_waited = waited;
    operation->host_waits = std::move(waits);
  }
  parts_.in_flight.fetch_add(1);
  check(cudaEventRecord(begin, stream.handle()), "cudaEventRecord");
  enqueue(stream.handle());
  check(cudaEventRecord(end, stream.handle()), "cudaEventRecord");
  {
    const std::lock_guard lock(mutex_);
    operation->kernel_ends = std::exchange(kernel_ends_, {});
    stream.submit(*operation);
  }
  parts_.submitted();
}

template <class Enqueue>
void CudaDevice::enqueue_as(std::uint32_t stream, const WorkItem& item, const Enqueue& enqueue) {
  if (stream == compute_stream()) return regions_.enter(item, enqueue);
  enqueue();
}

void CudaDevice::launch(std::uint32_t stream, const PreparedKernel& kernel,
                        std::span<const Operand> operands, std::uint32_t) {
  const auto views = views_of(operands);
  issue(
      stream, Issued::Kind::compute, kernel.kernel.label,
      [&](cudaStream_t handle) {
        enqueue_as(stream, WorkItem::of(kernel), [&] {
          launcher_for(*streams_[stream])
              .launch(handle, kernel.kernel, {views.data(), operands.size()});
        });
      },
      working(WorkItem::of(kernel)));
}

void CudaDevice::launch(std::uint32_t stream, const Sequence& sequence,
                        std::span<const Operand> operands) {
  const auto views = views_of(operands);
  const std::span<const View> slots(views.data(), operands.size());
  const auto by_kernels = [&](cudaStream_t handle) {
    std::size_t step = 0;
    host::for_each_step(sequence, slots, [&](const Kernel& kernel, std::span<const View> given) {
      enqueue_as(stream, WorkItem::of(sequence, step),
                 [&] { launcher_for(*streams_[stream]).launch(handle, kernel, given); });
      if (++step < sequence.steps().size() && parts_.options.by_kernel) {
        kernel_ends_.push_back(events_.take());
        check(cudaEventRecord(kernel_ends_.back(), handle), "cudaEventRecord");
      }
    });
  };
  issue(
      stream, Issued::Kind::compute, sequence.name().c_str(),
      [&](cudaStream_t handle) {
        if (!parts_.options.graphs || parts_.options.by_kernel) return by_kernels(handle);
        graphs_.launch(handle, sequence, slots, [&] { by_kernels(handle); });
      },
      working(WorkItem::of(sequence), sequence.steps().size()));
}

void CudaDevice::copy(std::uint32_t stream, const Operand& from, const Operand& to) {
  issue(
      stream, Issued::Kind::compute, "copy",
      [&](cudaStream_t handle) {
        enqueue_as(stream, WorkItem::copy(), [&] {
          parts_.options.copy(handle, view_of(to).data, view_of(from).data, size(from.bytes()));
        });
      },
      working(WorkItem::copy()));
}

// The values wait in pinned memory until the stream has come to them: a copy from ordinary memory
// would make the host wait for the stream. The host fills a block at once, so it must be one that
// no stream uses any more: homes of blocks taken and given back differ, which rules out others.
void CudaDevice::upload(std::uint32_t stream, const Operand& to, std::span<const double> values) {
  auto* staged = static_cast<std::byte*>(pinned_.take(to.bytes(), max_streams, Place::host));
  for (std::size_t i = 0; i < values.size(); ++i) store_as(to.storage->dtype, staged, i, values[i]);
  issue(
      stream, Issued::Kind::compute, "upload",
      [&](cudaStream_t handle) {
        enqueue_as(stream, WorkItem::upload(), [&] {
          parts_.options.copy(handle, view_of(to).data, staged, size(to.bytes()));
        });
      },
      working(WorkItem::upload()));
  pinned_.give_back(staged, to.bytes(), max_streams + 1, Place::host,
                    {stream, streams_[stream]->issued()});
}

void CudaDevice::fence(std::uint32_t stream, Event event) {
  Issued more;
  more.commands = commands_of(0);
  more.fenced_by = event;
  issue(
      stream, Issued::Kind::fence, "after",
      [&](cudaStream_t handle) {
        Issued* awaited = nullptr;
        {
          const std::lock_guard lock(mutex_);
          awaited = streams_[event.stream]->hold(event.ordinal);
        }
        if (awaited == nullptr) return;
        const cudaError_t result = cudaStreamWaitEvent(handle, awaited->end, 0);
        {
          const std::lock_guard lock(mutex_);
          GpuStream::let_go(*awaited);
        }
        check(result, "cudaStreamWaitEvent");
      },
      more);
}

void CudaDevice::communicate(
    std::uint32_t stream, Channel& channel, const Communication& communication,
    const std::vector<std::pair<const Communicator*, std::uint64_t>>& others) {
  monitor().throw_if_failed();
  open_channels();
  Communicator& communicator = *communication.communicator;
  if (parts_.options.peers == nullptr) {
    // The same checks as in every world; between processes nobody sees what all have issued. Values
    // and times are the transport's business, so an operation that all have issued is over here.
    const Lock lock(monitor().mutex());
    Rendezvous& rendezvous = communicator.issue(communication, others, true);
    if (rendezvous.issued == rendezvous.expected) communicator.retire(rendezvous);
  }
  streams_[stream]->set_traffic(channel.edge() ? Traffic::edge : Traffic::group);
  Issued more;
  more.channel = &channel;
  more.commands = commands_of(communicator.members().size());  // each is waited for
  more.collective = communication.kind;
  more.site = communication.site;
  issue(
      stream, Issued::Kind::communicate, orrery::name(communication.kind),
      [&](cudaStream_t handle) {
        transport_->issue(handle, communication, view_of(communication.in),
                          view_of(communication.out));
      },
      more);
}

void CudaDevice::open_channels() {
  if (channels_open_) return;
  use_gpu(gpu_);
  std::vector<const Communicator*> communicators;
  for (const auto& channel : program()->channels()) {
    communicators.push_back(&channel->outgoing());
    communicators.push_back(&channel->incoming());
  }
  transport_->open(std::move(communicators));
  channels_open_ = true;
}

void CudaDevice::mark_step(std::uint32_t stream, std::int64_t step) {
  if (regions_.step_ended() == 1) parts_.first_step_issued();
  GpuStream& its = *streams_[stream];
  const std::lock_guard lock(mutex_);
  if (its.passed() == its.issued())
    end_step(step, its.clock());
  else
    its.marks.emplace_back(its.issued(), step);
}

// ---- The watcher's side

CudaDevice::Look CudaDevice::look() {
  if (const std::exception_ptr failed = transport_->failure()) std::rethrow_exception(failed);
  use_gpu(gpu_);
  bool moved = false, waits = false;
  {
    const std::lock_guard lock(mutex_);
    while (retire_finished()) moved = true;
    for (std::uint32_t i = 0; i < stream_count(); ++i)
      waits = waits || streams_[i]->oldest() != nullptr;
  }
  if (moved) room_.notify_all();
  if (!moved) return waits ? Look::nothing_moved : Look::nothing_in_flight;
  const Lock lock(monitor().mutex());
  advance();
  return Look::moved;
}

// Whether any operation was. A fence comes behind what it waited for, which tells what the waiting
// was for.
bool CudaDevice::retire_finished() {
  bool any = false;
  for (std::uint32_t i = 0; i < stream_count(); ++i)
    while (const Issued* operation = streams_[i]->finished()) {
      const Event before = operation->fenced_by;
      if (operation->kind == Issued::Kind::fence &&
          streams_[before.stream]->passed() < before.ordinal)
        break;
      retire(i, *operation);
      any = true;
    }
  return any;
}

std::vector<std::pair<std::string, std::string>> CudaDevice::waiting() {
  std::vector<std::pair<std::string, std::string>> all;
  const std::lock_guard lock(mutex_);
  for (std::uint32_t i = 0; i < stream_count(); ++i) {
    const Issued* oldest = streams_[i]->oldest();
    if (oldest == nullptr) continue;
    std::string text = oldest->label;
    if (oldest->channel != nullptr)
      text += " on " + oldest->channel->name() + " (" + to_string(oldest->site) + ")";
    all.emplace_back("rank " + std::to_string(rank()) + " stream " + streams_[i]->name(), text);
  }
  return all;
}

// ---- The program's life

void CudaDevice::drain(Rank& rank) {
  open_channels();  // others may wait for this rank's part in opening them
  HostDevice::drain(rank);
  transport_->close();
}

}  // namespace orrery::cuda
