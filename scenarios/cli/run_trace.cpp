#include "scenarios/cli/run_trace.hpp"

namespace orrery::cli {

namespace {

const char* category(StreamObserver::What what) {
  using What = StreamObserver::What;
  switch (what) {
    case What::sequence:
      return "sequence";
    case What::wait:
      return "wait";
    case What::communication:
      return "communication";
    default:
      return "kernel";
  }
}

}  // namespace

void RunTrace::opened(int rank, std::uint32_t stream, const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto number = static_cast<std::uint32_t>(rank);
  if (stream == 0) writer_.name_rank(number);
  writer_.name_stream({number, stream}, name);
}

void RunTrace::ended(int rank, std::uint32_t stream, What what, const char* label, Time begin,
                     Time end) {
  const std::lock_guard lock(mutex_);
  writer_.slice({static_cast<std::uint32_t>(rank), stream}, category(what), label, begin, end);
}

void RunTrace::finish() {
  const std::lock_guard lock(mutex_);
  writer_.finish();
}

}  // namespace orrery::cli
