// What a result's figures suggest to do, as warnings.
#include <fmt/core.h>

#include "backend/core/table.hpp"
#include "scenarios/cli/result.hpp"

namespace orrery::cli {

namespace {

// Shares of a step, and of a GPU's memory, from which on a sentence is due.
constexpr double much_overhead = 0.10, much_bubble = 0.20, much_communication = 0.25;
constexpr double nearly_full = 0.95;

}  // namespace

std::vector<std::string> advice(const Result& r) {
  std::vector<std::string> out;
  if (r.input.world != "sim" || r.step_time_s <= 0) return out;
  const auto share = [&r](double part_s) { return format_percent(part_s / r.step_time_s); };
  if (r.input.subject.steps == 1)
    out.push_back(
        "one step only: its time holds the start-up; set run.steps to 2 or more for the rhythm");
  if (r.overhead_s > much_overhead * r.step_time_s)
    out.push_back(
        fmt::format("the GPU waits for the host {} of the step: kernels are too small for what it "
                    "takes to launch them; try a larger data.micro_batch",
                    share(r.overhead_s)));
  if (r.bubble_s > much_bubble * r.step_time_s)
    out.push_back(
        fmt::format("pipeline bubbles take {} of the step: try more micro-batches (a smaller "
                    "data.micro_batch, a larger data.global_batch) or fewer stages",
                    share(r.bubble_s)));
  if (r.exposed_communication_s > much_communication * r.step_time_s)
    out.push_back(
        fmt::format("exposed communication takes {} of the step: try more micro-batches per step "
                    "(data.global_batch) or fewer replicas",
                    share(r.exposed_communication_s)));
  const double peak = static_cast<double>(r.peak_bytes.value);
  const double capacity = static_cast<double>(r.input.capacity.value);
  if (capacity > 0 && peak > nearly_full * capacity)
    out.push_back(
        fmt::format("rank {} holds {} of its memory at the peak; fragmentation, which is not "
                    "modelled, may not fit beside it",
                    r.memory_rank, format_percent(peak / capacity)));
  return out;
}

}  // namespace orrery::cli
