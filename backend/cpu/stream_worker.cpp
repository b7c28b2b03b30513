#include "backend/cpu/stream_worker.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/device.hpp"
#include "backend/cpu/operands.hpp"
#include "backend/cpu/racy.hpp"
#include "backend/host/operands.hpp"

namespace orrery::cpu {

namespace {

std::uint64_t picoseconds(Instant from, Instant to) {
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(to - from).count();
  return ns > 0 ? static_cast<std::uint64_t>(ns) * 1000 : 0;
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

bool without_values(const View& view) { return view.data == nullptr && view.elements > 0; }

// An operation whose inputs have no values in this run leaves no values: what it writes is not a
// number, by which the host can tell; for integers, as in sim, the least of their type.
void blank(const View& view) {
  if (view.data == nullptr) return;
  double unknown = NAN;
  if (view.dtype == Dtype::int32) unknown = std::numeric_limits<std::int32_t>::min();
  if (view.dtype == Dtype::int64) unknown = -0x1p63;
  if (view.dtype == Dtype::uint8) unknown = 0;
  fill(view, unknown);
}

void run_kernel(const KernelBodies& bodies, const Kernel& kernel, std::span<const View> views) {
  if (std::none_of(views.begin(), views.end(), without_values)) return bodies.run(kernel, views);
  for (std::size_t i = 0; i < views.size(); ++i)
    if (role_of(kernel.roles, i) != Role::read) blank(views[i]);
}

void run_copy(const View& from, const View& to) {
  if (from.data == nullptr) return blank(to);
  if (to.data != nullptr)
    std::memmove(to.data, from.data,
                 static_cast<std::size_t>(bytes_of(from.elements, from.dtype).value));
}

const char* label(const Operation& operation) {
  switch (operation.kind) {
    case Operation::Kind::kernel:
      return operation.kernel->kernel.label;
    case Operation::Kind::sequence:
      return operation.sequence->name().c_str();
    case Operation::Kind::copy:
      return "copy";
    case Operation::Kind::upload:
      return "upload";
    case Operation::Kind::fence:
      return "after";
    case Operation::Kind::communicate:
      return "communication";
    case Operation::Kind::mark:
      return "mark_step";
  }
  return "";
}

}  // namespace

StreamWorker::StreamWorker(CpuDevice& device, std::uint32_t index, std::string name)
    : device_(device), index_(index), name_(std::move(name)), mark_(device.monitor().start()) {
  {
    const Lock lock(device_.monitor().mutex());
    device_.monitor().add(*this, true);
  }
  thread_ = std::thread([this] { run(); });
}

StreamWorker::~StreamWorker() { stop(); }

Operation& StreamWorker::next(Operation::Kind kind) {
  Operation& operation = queue_.back();
  operation.kind = kind;
  operation.operands = 0;
  operation.racy = 0;
  operation.ordinal = kind == Operation::Kind::mark ? issued_ : ++issued_;
  return operation;
}

void StreamWorker::submit() {
  queue_.commit();
  if (!sleeping_.load(std::memory_order_seq_cst) || !sleeping_.exchange(false)) return;
  const Lock lock(device_.monitor().mutex());
  device_.monitor().make_ready(*this);
}

void StreamWorker::set_traffic(Traffic traffic) {
  if (traffic_.load(std::memory_order_relaxed) == Traffic::none)
    traffic_.store(traffic, std::memory_order_relaxed);
}

void StreamWorker::stop() {
  if (!thread_.joinable()) return;
  {
    const Lock lock(device_.monitor().mutex());
    stop_ = true;
    if (sleeping_.load(std::memory_order_relaxed)) device_.monitor().make_ready(*this);
  }
  thread_.join();
}

TimeParts StreamWorker::parts() const {
  const auto part = [this](Part p) {
    return Time(parts_[static_cast<std::size_t>(p)].load(std::memory_order_relaxed));
  };
  return {part(Part::compute), part(Part::exposed_communication), part(Part::bubble),
          part(Part::overhead), part(Part::idle)};
}

void StreamWorker::watch(std::uint64_t ordinal) {
  if (ordinal < watched_.load(std::memory_order_relaxed))
    watched_.store(ordinal, std::memory_order_seq_cst);
}

std::exception_ptr StreamWorker::failure_by(std::uint64_t ordinal) const {
  return failed_at_.load(std::memory_order_seq_cst) <= ordinal ? failure_ : nullptr;
}

std::string StreamWorker::who() const {
  return "rank " + std::to_string(device_.rank()) + " stream " + name_;
}

std::string StreamWorker::blocked_in() const {
  if (at_ == nullptr) return "";
  if (at_->kind == Operation::Kind::fence)
    return "waits for operation " + std::to_string(at_->event.ordinal) + " of stream " +
           device_.stream(at_->event.stream).name();
  if (at_->kind == Operation::Kind::communicate) return "in " + at_->meeting->describe(at_->part);
  return label(*at_);
}

void StreamWorker::run() {
  try {
    while (Operation* operation = await()) {
      at_ = operation;
      execute(*operation);
      at_ = nullptr;
      queue_.pop();
    }
  } catch (...) {  // the run has failed, or does now
    const Lock lock(device_.monitor().mutex());
    device_.monitor().fail(std::current_exception());
  }
  const Lock lock(device_.monitor().mutex());
  at_ = nullptr;
  device_.monitor().remove(*this);
}

void StreamWorker::spend(Part part) {
  const Instant now = std::chrono::steady_clock::now();
  parts_[static_cast<std::size_t>(part)].fetch_add(picoseconds(mark_, now),
                                                   std::memory_order_relaxed);
  mark_ = now;
}

// The next operation; null when there will be none. Looks for about a microsecond before it sleeps:
// a host that issues short operations is met without waking anyone.
Operation* StreamWorker::await() {
  Operation* operation = queue_.front();
  if (operation != nullptr) return operation;
  for (int i = 0; i < 24; ++i) {
    pause();
    operation = queue_.front();
    if (operation != nullptr) {
      spend(Part::overhead);
      return operation;
    }
  }
  Lock lock(device_.monitor().mutex());
  wait_for_host(lock);
  return queue_.front();
}

// While the queue is empty, time in which the host itself was waiting is what it was waiting for;
// the rest is overhead.
void StreamWorker::wait_for_host(Lock& lock) {
  spend(Part::overhead);
  const Instant since = mark_;
  const PartTimes before = device_.host_waited(since);
  while (true) {
    sleeping_.store(true, std::memory_order_seq_cst);
    if (stop_ || !queue_.empty()) break;
    device_.monitor().block(lock, *this);
  }
  sleeping_.store(false, std::memory_order_relaxed);
  mark_ = std::chrono::steady_clock::now();
  const PartTimes after = device_.host_waited(mark_);
  std::uint64_t left = picoseconds(since, mark_);
  const auto add = [this](std::size_t part, std::uint64_t time) {
    parts_[part].fetch_add(time, std::memory_order_relaxed);
  };
  for (std::size_t part = 0; part < part_count; ++part) {
    const std::uint64_t waited = std::min(left, (after[part] - before[part]).picoseconds);
    add(part, waited);
    left -= waited;
  }
  add(static_cast<std::size_t>(Part::overhead), left);
}

void StreamWorker::execute(Operation& operation) {
  const Instant began = mark_;
  switch (operation.kind) {
    case Operation::Kind::mark:
      // At the end of the operation before, up to which the parts have been counted: so they sum to
      // the time of the step.
      device_.step_ended(operation.step, device_.monitor().at(mark_));
      return;
    case Operation::Kind::fence:
      fence(operation);
      break;
    case Operation::Kind::communicate:
      communicate(operation);
      break;
    default:
      kernel_ends_.clear();
      compute(operation);
      spend(Part::compute);
      if (device_.is_compute(index_)) note_work(operation, began);
  }
  if (device_.is_observed()) observe(operation, began);
  if (operation.kind == Operation::Kind::upload) delete std::exchange(operation.values, nullptr);
  pass(operation.ordinal);
}

// The operation that took from `began` to now. What a sequence's last kernel did not take itself is
// counted with it, so that all sum to the parts.
void StreamWorker::note_work(const Operation& operation, Instant began) {
  const std::lock_guard lock(work_mutex_);
  const Time all(picoseconds(began, mark_));
  switch (operation.kind) {
    case Operation::Kind::kernel:
      return work_.add(WorkItem::of(*operation.kernel), all);
    case Operation::Kind::copy:
      return work_.add(WorkItem::copy(), all);
    case Operation::Kind::upload:
      return work_.add(WorkItem::upload(), all);
    default:
      break;
  }
  const Sequence& sequence = *operation.sequence;
  if (kernel_ends_.size() != sequence.steps().size())  // it failed
    return work_.add(WorkItem::of(sequence), all);
  if (!kernel_ends_.empty()) kernel_ends_.back() = mark_;
  for (std::size_t step = 0; step < kernel_ends_.size(); ++step) {
    work_.add(WorkItem::of(sequence, step), Time(picoseconds(began, kernel_ends_[step])));
    began = kernel_ends_[step];
  }
}

void StreamWorker::observe(const Operation& operation, Instant began) const {
  using What = StreamObserver::What;
  const auto tell = [this](What what, const char* name, Instant from, Instant to) {
    device_.observe(index_, what, name, device_.monitor().at(from), device_.monitor().at(to));
  };
  switch (operation.kind) {
    case Operation::Kind::kernel:
      return tell(What::kernel, label(operation), began, mark_);
    case Operation::Kind::fence:
      return tell(What::wait, label(operation), began, mark_);
    case Operation::Kind::communicate:
      return tell(What::communication, orrery::name(operation.collective), began, mark_);
    case Operation::Kind::sequence:
      break;
    default:
      return tell(What::copy, label(operation), began, mark_);
  }
  tell(What::sequence, label(operation), began, mark_);
  for (std::size_t step = 0; step < kernel_ends_.size(); ++step) {
    tell(What::kernel, operation.sequence->steps()[step].kernel.kernel->kernel.label, began,
         kernel_ends_[step]);
    began = kernel_ends_[step];
  }
}

void StreamWorker::note_step() {
  const std::lock_guard lock(work_mutex_);
  work_.step_ended();
}

void StreamWorker::pass(std::uint64_t ordinal) {
  last_end_ = device_.monitor().at(mark_);
  passed_.store(ordinal, std::memory_order_seq_cst);
  if (ordinal < watched_.load(std::memory_order_seq_cst)) return;
  const Lock lock(device_.monitor().mutex());
  watched_.store(never, std::memory_order_seq_cst);
  device_.stream_moved(index_);
}

void StreamWorker::poison(std::exception_ptr failure, std::uint64_t ordinal,
                          const char* operation) {
  const std::exception_ptr named = with_context(
      std::move(failure),
      {{"rank", std::to_string(device_.rank())}, {"stream", name_}, {"operation", operation}});
  device_.monitor().keep(named);
  const Lock lock(device_.monitor().mutex());
  failure_ = named;
  failed_at_.store(ordinal, std::memory_order_seq_cst);
}

void StreamWorker::compute(const Operation& operation) {
  if (poisoned()) return;
  try {
    if (operation.racy != 0) {
      run_racy(device_.racy_mutex(), operation.given(), operation.racy, operation.roles,
               [&](std::span<const View> views) { run_body(operation, views); });
    } else {
      run_body(operation, operation.given());
    }
  } catch (...) {
    poison(std::current_exception(), operation.ordinal, label(operation));
  }
}

void StreamWorker::run_body(const Operation& operation, std::span<const View> views) {
  switch (operation.kind) {
    case Operation::Kind::kernel:
      return run_kernel(device_.bodies(), operation.kernel->kernel, views);
    case Operation::Kind::sequence:
      return run_sequence(*operation.sequence, views);
    case Operation::Kind::copy:
      return run_copy(views[0], views[1]);
    case Operation::Kind::upload:
      for (std::size_t i = 0; i < operation.values->size(); ++i)
        set_element(views[0], static_cast<std::int64_t>(i), (*operation.values)[i]);
      return;
    default:
      return;
  }
}

void StreamWorker::run_sequence(const Sequence& sequence, std::span<const View> slots) {
  for_each_step(sequence, slots, [this](const Kernel& kernel, std::span<const View> views) {
    run_kernel(device_.bodies(), kernel, views);
    kernel_ends_.push_back(std::chrono::steady_clock::now());
  });
}

void StreamWorker::fence(const Operation& operation) {
  const Event event = operation.event;
  StreamWorker& other = device_.stream(event.stream);
  if (other.passed() < event.ordinal) {
    Lock lock(device_.monitor().mutex());
    device_.compute_waits(index_, event.stream);
    fenced_by_ = event;
    while (true) {
      other.watch(event.ordinal);
      if (other.passed() >= event.ordinal) break;
      device_.monitor().block(lock, *this);
    }
    fenced_by_.reset();
    device_.compute_waits(index_, -1);
    spend(waiting_for(other.traffic()));
  } else {
    spend(Part::idle);
  }
  if (poisoned() || other.failed_at_.load(std::memory_order_seq_cst) > event.ordinal) return;
  std::exception_ptr failure;
  {
    const Lock lock(device_.monitor().mutex());
    failure = other.failure_;
  }
  poison(failure, operation.ordinal, "after");
}

void StreamWorker::review_fence() {
  if (!fenced_by_) return;
  StreamWorker& other = device_.stream(fenced_by_->stream);
  other.watch(fenced_by_->ordinal);
  if (other.passed() >= fenced_by_->ordinal) device_.monitor().make_ready(*this);
}

void StreamWorker::communicate(const Operation& operation) {
  const Collective kind = operation.meeting->rendezvous->first.kind;
  const Instant start = mark_;
  std::mutex* racy_out = (operation.racy & 2U) != 0 ? &device_.racy_mutex() : nullptr;
  std::exception_ptr mine;
  if (poisoned()) {
    const Lock lock(device_.monitor().mutex());
    mine = failure_;
  }
  const std::string named = operation.meeting->rendezvous->first.patience == time_never
                                ? ""
                                : operation.meeting->rendezvous->describe();  // while it lasts
  const Attended outcome =
      device_.meetings().attend(*operation.meeting, operation.part, *this, mine, racy_out);
  if (outcome.failure != nullptr && !poisoned())
    poison(outcome.failure, operation.ordinal, orrery::name(kind));
  else if (!outcome.lost.empty())
    device_.note_loss({{index_, operation.ordinal}, outcome.lost, named});
  spend(waiting_for(traffic()));
  const Time busy(picoseconds(start, mark_));
  ChannelUse* use = nullptr;
  for (auto& [channel, known] : uses_)
    if (channel == operation.channel && known.kind == operation.collective) use = &known;
  if (use == nullptr) {
    uses_.push_back({operation.channel, {operation.collective, 0, Bytes(0), Time{}, Time{}}});
    use = &uses_.back().second;
  }
  use->busy += busy;
  use->exposed += device_.exposed(index_, start, mark_);
}

}  // namespace orrery::cpu
