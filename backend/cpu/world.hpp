// The real world on this machine's CPU: ranks are threads of one process, kernels run in Eigen.
//
// Each flow of a rank is a thread; flows of one rank hand over a baton, so that one runs at a time.
// Each stream is a worker thread that executes its operations in order, truly asynchronously.
// Communications are rendezvous: they are carried out, by the reference collectives, when the
// stream of every member has come to them.
#pragma once

#include <memory>
#include <optional>

#include "backend/throttle.hpp"
#include "backend/world.hpp"

namespace orrery {

struct CpuOptions {
  std::optional<Throttle> throttle;  // of every communication
};

// `options.bodies` may be null: the CPU's own are used. The world throws, besides what rank
// programs do: Error{deadlock} when nothing can run any more, with every blocked flow, stream and
// service; Error{mismatch} for a control message that nobody received; Error{invalid_program} for a
// flow that was not joined. Bodies of custom kernels run on other threads, until the program's
// streams are drained: they must not refer to variables of the program that die before that.
std::unique_ptr<World> make_cpu_world(WorldOptions options, CpuOptions cpu = {});

}  // namespace orrery
