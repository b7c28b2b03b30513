// The result as people read it.
#include <fmt/core.h>

#include "backend/core/progress.hpp"
#include "backend/core/table.hpp"
#include "scenarios/cli/result.hpp"

namespace orrery::cli {

namespace {

std::string milliseconds(double s) { return fmt::format("{:.2f}", s * 1e3); }

std::string time_table(const Result& r) {
  TextTable table;
  table.left("where the step goes").column("time", "ms").column("share", "%");
  const auto row = [&](const char* label, double s) {
    table.row({label, milliseconds(s), fmt::format("{:.1f}", 100 * s / r.step_time_s)});
  };
  row("compute", r.compute_s);
  row("exposed communication", r.exposed_communication_s);
  row("pipeline bubble", r.bubble_s);
  row("host overhead", r.overhead_s);
  row("idle", r.idle_s);
  table.rule();
  row("step", r.step_time_s);
  return table.text();
}

std::string communication_table(const Result& r) {
  TextTable table;
  table.left("communication per step")
      .left("over")
      .column("calls")
      .column("sent", "per rank")
      .column("time", "ms")
      .column("exposed", "ms");
  for (const CommunicationRow& c : r.communication)
    table.row({c.operation + " " + c.lane, c.group, fmt::format("{:g}", c.calls),
               format_bytes(Bytes(static_cast<std::int64_t>(c.bytes_per_rank))),
               milliseconds(c.time_s), milliseconds(c.exposed_s)});
  return table.text();
}

std::string memory_table(const Result& r) {
  TextTable table;
  table.left("memory at its peak, rank " + std::to_string(r.memory_rank)).column("size");
  for (int i = 0; i < label_count; ++i)
    if (const Bytes held = r.by_label[static_cast<std::size_t>(i)]; held.value > 0)
      table.row({name(static_cast<Label>(i)), format_bytes(held)});
  table.rule();
  const bool limited = r.input.capacity.value > 0;
  table.row({limited ? "peak, of " + format_bytes(r.input.capacity) : "peak",
             format_bytes(r.peak_bytes)});
  return table.text();
}

}  // namespace

std::string to_table(const Result& r, bool color) {
  const auto strong = [&](const std::string& text) { return styled(text, Style::bold, color); };
  std::string out = strong(fmt::format("{}: {} on {} ranks, {} world", r.input.scenario,
                                       r.input.algorithm, r.input.ranks, r.input.world)) +
                    "\n\n";
  out += fmt::format("step time   {}\n", strong(format_seconds(Seconds(r.step_time_s))));
  if (r.mfu)
    out += fmt::format("MFU         {}  (HFU {}, {:.1f} of {:.0f} TFLOP/s per GPU)\n",
                       strong(format_percent(*r.mfu)), format_percent(*r.hfu), *r.tflops_per_gpu,
                       *r.peak_tflops);
  if (r.input.tokens_per_step > 0)
    out += fmt::format("tokens/s    {}  ({} per rank)\n", format_count(r.tokens_per_s),
                       format_count(r.tokens_per_s_per_gpu));
  if (!r.loss.empty())
    out += fmt::format("loss        {:.4f} in the first step, {:.4f} in the last of {}\n",
                       r.loss.front(), r.loss.back(), r.loss.size());
  out += "\n" + time_table(r);
  if (!r.communication.empty()) out += "\n" + communication_table(r);
  out += "\n" + memory_table(r);
  if (!r.input.assumptions.empty()) {
    out += "\n" + styled("assumed, not measured:", Style::dim, color) + "\n";
    for (const auto& a : r.input.assumptions)
      out += fmt::format("  {} = {}: {}\n", a.path, a.value, a.reason);
  }
  for (const std::string& warning : r.input.warnings)
    out += styled("warning: ", Style::yellow, color) + warning + "\n";
  return out;
}

std::string metrics_csv(const RunReport& report, const Result& result) {
  std::string out = "step,end_s,loss\n";
  const auto& marks = report.ranks[0].steps;
  for (std::size_t step = 0; step < marks.size(); ++step)
    out += fmt::format("{},{:.12f},{}\n", step + 1, marks[step].at.seconds().value,
                       step < result.loss.size() ? fmt::format("{:.9g}", result.loss[step]) : "");
  return out;
}

}  // namespace orrery::cli
