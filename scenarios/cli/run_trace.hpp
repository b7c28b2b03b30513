// The trace of a real run, in the form of a simulation's (sim/trace.hpp).
//
// A slice for each operation; that of a sequence holds its kernels where these were timed one by
// one; a communication lasts from when its stream came to it; "after" is a wait for another stream.
#pragma once

#include <mutex>
#include <string>

#include "backend/world.hpp"
#include "scenarios/cli/files.hpp"
#include "sim/trace.hpp"

namespace orrery::cli {

class RunTrace final : public StreamObserver {
 public:
  // Writes to `path` when finish() is called.
  explicit RunTrace(const std::string& path) : sink_(path), writer_(sink_) {}

  void opened(int rank, std::uint32_t stream, const std::string& name) override;
  void ended(int rank, std::uint32_t stream, What what, const char* label, Time begin,
             Time end) override;
  void finish();

 private:
  std::mutex mutex_;
  GzipTraceSink sink_;
  sim::TraceWriter writer_;
};

}  // namespace orrery::cli
