#include "sim/simgrid/actors.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <simgrid/Exception.hpp>
#include <string>
#include <utility>

#include "backend/core/error.hpp"
#include "sim/simgrid/exception_state.hpp"
#include "sim/simgrid/versions.hpp"

namespace orrery::sim {

namespace {

// Thrown by block() when the run has failed. Not a std::exception, so that handlers in rank
// programs let it pass.
struct Unwind {};

// What SimGrid's frames above and below ours may take of a stack, and what it takes to throw an
// error from its depth.
constexpr std::uint32_t simgrid_frames = 1024;
constexpr std::uint32_t stack_reserve = 6 * 1024;

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// The page on which the mapping of a stack begins. It holds two words of malloc's, which nobody
// looks at before the stack is freed, and otherwise the end that an actor hardly ever reaches; but
// touched it takes as much memory as most actors do. So while the actor lives it is given back.
class FirstPage {
 public:
  // `within`: an address on it. One that does not begin as glibc's mappings do is left alone.
  FirstPage(std::uintptr_t within, std::uint32_t stack_bytes) {
    constexpr std::size_t added = 3 * sizeof(std::uint64_t);  // by malloc to a multiple of 16 bytes
    constexpr std::uint64_t is_mapping = 2;                   // the flag beside the size
    const std::size_t bytes = page_bytes();
    auto* const words = reinterpret_cast<std::uint64_t*>(within & ~(bytes - 1));
    const std::uint64_t mapped = (stack_bytes + added + bytes - 1) & ~(bytes - 1);
    if (words[0] != 0 || words[1] != (mapped | is_mapping)) return;
    if (madvise(words, bytes, MADV_DONTNEED) != 0) return;
    words_ = words;
    size_ = mapped | is_mapping;
  }
  ~FirstPage() {
    if (words_ != nullptr) words_[1] = size_;
  }
  FirstPage(const FirstPage&) = delete;
  FirstPage& operator=(const FirstPage&) = delete;

 private:
  std::uint64_t* words_ = nullptr;
  std::uint64_t size_ = 0;
};

}  // namespace

ActorId Actors::spawn(std::uint32_t rank, std::uint32_t flow, std::function<void()> body) {
  if (unwinding_) return no_actor;
  const auto id = static_cast<std::uint32_t>(actors_.size());
  Actor& actor = actors_.emplace_back();
  actor.place = (std::uint64_t{rank} << 32) | flow;
  actor.body = std::move(body);
  runnable_.push_back(id);
  ++live_;
  return ActorId{id};
}

void Actors::make_runnable(ActorId actor) {
  ORRERY_ASSERT(actor.value < actors_.size(), "no such actor");
  Actor& a = actors_[actor.value];
  if (a.state != State::blocked || unwinding_) return;
  a.state = State::runnable;
  runnable_.push_back(actor.value);
}

void Actors::block() {
  ORRERY_ASSERT(current_ != no_actor, "block() outside an actor");
  if (unwinding_) throw Unwind{};
  const ActorId self = current_;
  Actor& actor = actors_[self.value];
  if (reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)) <
      actor.stack_end + stack_reserve) {
    throw Error(Category::internal,
                "an actor's stack is used up; EngineOptions::stack_bytes gives it more");
  }
  actor.state = State::blocked;
  give_back_unused(actor);
  {
    const ExceptionState own = ExceptionState::exchange({});
    simgrid::s4u::this_actor::suspend();
    ExceptionState::exchange(own);
  }
  current_ = self;
  if (unwinding_) throw Unwind{};
}

// Pages of its stack that an actor has used, and which its frames do not reach now: it reaches
// deeper while it issues than where it blocks. Of few actors it would cost more time than it saves
// memory: some microseconds each time.
__attribute__((noinline)) void Actors::give_back_unused(const Actor& actor) const {
  constexpr std::uint32_t many = 1024;
  if (actor.stack_end == 0 || measure_stacks_ || live_ < many) return;
  constexpr std::uintptr_t own_frame = 256;
  const std::uintptr_t in_page = page_bytes() - 1;
  const auto frame = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  const std::uintptr_t to = (frame - own_frame) & ~in_page;
  const std::uintptr_t from = (actor.stack_end | in_page) + 1;  // that page shows an overflow
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

void Actors::release_runnable() {
  batch_.swap(runnable_);
  release(batch_);
}

bool Actors::release_blocked() {
  runnable_.clear();
  batch_.clear();
  for (std::uint32_t id = 0; id < actors_.size(); ++id) {
    Actor& actor = actors_[id];
    if (actor.state == State::ended) continue;
    if (actor.handle) {
      batch_.push_back(id);
    } else {  // it never began
      actor.state = State::ended;
      actor.body = nullptr;
      --live_;
    }
  }
  const bool any = !batch_.empty();
  release(batch_);
  return any;
}

void Actors::release(std::vector<std::uint32_t>& batch) {
  const auto earlier = [this](std::uint32_t a, std::uint32_t b) {
    return std::pair(actors_[a].place, a) < std::pair(actors_[b].place, b);
  };
  if (!std::is_sorted(batch.begin(), batch.end(), earlier))
    std::sort(batch.begin(), batch.end(), earlier);
  for (const std::uint32_t id : batch) {
    Actor& actor = actors_[id];
    actor.state = State::running;
    if (actor.handle) {
      actor.handle->resume();
    } else {
      actor.handle = add_actor("", host_, [this, id] { top(id); });
    }
  }
  counters_.wake_ups += batch.size();
  batch.clear();
}

void Actors::top(std::uint32_t id) {
  const auto stack_top = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  std::optional<FirstPage> unused;
  if (stack_bytes_ != 0) {
    const std::uintptr_t end = (stack_top - stack_bytes_ + simgrid_frames) & ~std::uintptr_t{7};
    actors_[id].stack_end = end;
    unused.emplace(end, stack_bytes_);
  }
  run_body(id);
  check_stack(id, stack_top);
  actors_[id].state = State::ended;
  actors_[id].handle = nullptr;  // SimGrid holds one of its own until it has left this stack
  --live_;
}

__attribute__((noinline)) void Actors::run_body(std::uint32_t id) {
  current_ = ActorId{id};
  try {
    const std::function<void()> body = std::move(actors_[id].body);
    if (!unwinding_) body();
  } catch (const simgrid::ForcefulKillException&) {
    throw;  // SimGrid's own
  } catch (const Unwind&) {
  } catch (...) {
    on_error(std::current_exception());
  }
}

// SimGrid hands out stacks that are zero, so what is not zero has been used. A stack has no guard
// page (there may be more stacks than the kernel allows mappings); its last words are looked at
// when the actor ends.
void Actors::check_stack(std::uint32_t id, std::uintptr_t stack_top) {
  if (stack_bytes_ == 0) return;
  const auto* word = reinterpret_cast<const std::uint64_t*>(actors_[id].stack_end);
  if (*word != 0) {
    on_error(std::make_exception_ptr(
        Error(Category::internal,
              "an actor used up its stack; EngineOptions::stack_bytes gives it more")
            .with("rank", std::to_string(actors_[id].place >> 32))
            .with("flow", std::to_string(actors_[id].place & 0xffffffff))));
  }
  if (!measure_stacks_) return;
  while (*word == 0) ++word;  // ends at the frame of this function at the latest
  const auto used = static_cast<std::uint32_t>(stack_top - reinterpret_cast<std::uintptr_t>(word));
  counters_.deepest_stack = std::max(counters_.deepest_stack, used);
}

}  // namespace orrery::sim
