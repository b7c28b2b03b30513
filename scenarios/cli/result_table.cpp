// The result as people read it.
#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "backend/core/progress.hpp"
#include "backend/core/table.hpp"
#include "scenarios/cli/result.hpp"

namespace orrery::cli {

namespace {

// The unit in which the times of one table are shown, so that they can be compared.
struct TimeUnit {
  const char* name;
  double per_second;
  std::string text(double s) const { return fmt::format("{:.2f}", s * per_second); }
};

TimeUnit unit_for(double longest_s) {
  if (longest_s >= 10) return {"s", 1};
  if (longest_s >= 10e-3) return {"ms", 1e3};
  return {"us", 1e6};
}

std::string time_table(const Result& r) {
  const TimeUnit unit = unit_for(r.step_time_s);
  TextTable table;
  table.left("where the step goes").column("time", unit.name).column("share", "%");
  const auto row = [&](const char* label, double s) {
    const double share = r.step_time_s > 0 ? 100 * s / r.step_time_s : 0;
    table.row({label, unit.text(s), fmt::format("{:.1f}", share)});
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
  const TimeUnit unit = unit_for(r.step_time_s);
  TextTable table;
  table.left("communication per step")
      .left("over")
      .column("calls")
      .column("sent", "per rank")
      .column("time", unit.name)
      .column("exposed", unit.name);
  for (const CommunicationRow& c : r.communication)
    table.row({c.operation + " " + c.lane, c.group, fmt::format("{:g}", c.calls),
               format_bytes(Bytes(static_cast<std::int64_t>(c.bytes_per_rank))),
               unit.text(c.time_s), unit.text(c.exposed_s)});
  return table.text();
}

std::string limits_table(const Result& r) {
  const TimeUnit unit = unit_for(r.step_time_s);
  TextTable table;
  table.left("what limits it").left("change").column("step", unit.name).column("MFU", "points");
  for (const BottleneckRow& row : r.limits)
    table.row({row.resource, row.change, unit.text(row.step_time_s),
               r.mfu ? fmt::format("{:+.2f}", row.mfu_points) : "-"});
  return table.text();
}

std::string links_table(const std::vector<LinkRow>& links) {
  TextTable table;
  table.left("links")
      .column("count")
      .column("mean", "% busy")
      .column("most", "% busy")
      .left("which");
  for (const LinkRow& row : links)
    table.row({row.tier, std::to_string(row.links), fmt::format("{:.2f}", 100 * row.mean_share),
               fmt::format("{:.2f}", 100 * row.busiest_share), row.busiest});
  return table.text();
}

// Gradients by how late they were applied; nothing where all were in time.
std::string staleness_table(const std::vector<StalenessRow>& staleness) {
  constexpr std::size_t most_rows = 8;
  if (std::all_of(staleness.begin(), staleness.end(),
                  [](const StalenessRow& row) { return row.updates == 0 && !row.predicted; }))
    return "";
  TextTable table;
  table.left("updates between a gradient's parameters and its update").column("gradients", "%");
  // 0, 1, 2 to 3, 4 to 7, ... where they are many.
  std::map<std::pair<std::int64_t, bool>, std::pair<std::int64_t, double>> rows;
  for (const StalenessRow& row : staleness) {
    std::int64_t first = row.updates, last = row.updates;
    if (staleness.size() > most_rows && row.updates > 1) {
      for (first = 2; 2 * first <= row.updates;) first *= 2;
      last = 2 * first - 1;
    }
    auto& [until, share] = rows[{first, row.predicted}];
    until = last;
    share += row.share;
  }
  for (const auto& [key, row] : rows)
    table.row({(key.first == row.first ? std::to_string(key.first)
                                       : fmt::format("{} to {}", key.first, row.first)) +
                   (key.second ? ", predicted parameters" : ""),
               fmt::format("{:.1f}", 100 * row.second)});
  return "\n" + table.text();
}

std::string workers_table(const Result& r) {
  constexpr std::size_t most_rows = 16;
  if (r.workers.empty()) return "";
  TextTable table;
  table.left("worker").column("samples", "% of all").column("idle", "% of a step");
  const auto row = [&](const std::string& name, const WorkerRow& w) {
    table.row({name, fmt::format("{:.2f}", 100 * w.sample_share),
               fmt::format("{:.1f}", 100 * w.idle_share)});
  };
  if (r.workers.size() <= most_rows) {
    for (std::size_t i = 0; i < r.workers.size(); ++i) row(std::to_string(i), r.workers[i]);
    return "\n" + table.text();
  }
  std::vector<double> shares, idle;
  for (const WorkerRow& w : r.workers) {
    shares.push_back(w.sample_share);
    idle.push_back(w.idle_share);
  }
  std::sort(shares.begin(), shares.end());
  std::sort(idle.begin(), idle.end());
  for (const auto& [name, q] : {std::pair{"least", 0.0}, {"median", 0.5}, {"most", 1.0}})
    row(fmt::format("{} of {}", name, r.workers.size()), {quantile(shares, q), quantile(idle, q)});
  return "\n" + table.text();
}

// "10 replicas: 2.69 s to 2.81 s, half of them below 2.72 s".
std::string replicas_line(const Result& r) {
  const auto text = [](double s) { return format_seconds(Seconds(s)); };
  const std::vector<double>& steps = r.replica_steps_s;
  return fmt::format(
      "            {} replicas: {} to {}; 10 % below {}, half below {}, 90 % below {}\n",
      steps.size(), text(steps.front()), text(steps.back()), text(quantile(steps, 0.1)),
      text(quantile(steps, 0.5)), text(quantile(steps, 0.9)));
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

std::string heading(const Subject& s, bool color) {
  std::string out = styled(s.scenario, Style::bold, color) + "\n";
  const auto line = [&out](const char* what, const std::string& text) {
    out += fmt::format("{:<12}{}\n", what, text);
  };
  line("model", fmt::format("{}, {} parameters", s.model, format_thousands(s.parameters)));
  line("algorithm", s.plan.empty() ? s.algorithm : s.algorithm + "; " + s.plan);
  if (!s.cluster.empty()) line("cluster", fmt::format("{}: {}", s.cluster, s.gpus));
  line("run", fmt::format("{} {}, seed {}", s.steps, s.steps == 1 ? "step" : "steps", s.seed));
  return out;
}

std::string to_table(const Result& r, bool color) {
  const auto strong = [&](const std::string& text) { return styled(text, Style::bold, color); };
  const char* verb = r.input.world == "sim"    ? "simulated"
                     : r.input.world == "cuda" ? "measured on this machine's GPUs"
                                               : "measured on this machine's CPU";
  std::string out = heading(r.input.subject, color);
  if (r.input.steps_before > 0)
    out += fmt::format("{:<12}after {} steps of an earlier run\n", "resumed", r.input.steps_before);
  out += "\n";
  out +=
      fmt::format("step time   {}  ({})\n", strong(format_seconds(Seconds(r.step_time_s))), verb);
  if (r.input.step_time_low_s && r.input.step_time_high_s)
    out += fmt::format("            {} to {} by the calibration's error\n",
                       format_seconds(Seconds(*r.input.step_time_low_s)),
                       format_seconds(Seconds(*r.input.step_time_high_s)));
  if (!r.replica_steps_s.empty()) out += replicas_line(r);
  if (r.input.unequal)
    out += fmt::format("busy        {} to {} of a step, by rank; half of them below {}\n",
                       format_percent(r.busy_least), format_percent(r.busy_most),
                       format_percent(r.busy_median));
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
  if (r.loss_held_out)
    out += fmt::format("            {:.4f} on held-out text\n", *r.loss_held_out);
  if (!r.input.loss_consensus.empty())
    out += fmt::format("            {:.4f} there by the mean of all replicas after {} steps\n",
                       r.input.loss_consensus.back().loss, r.input.loss_consensus.back().step);
  out += "\n" + time_table(r);
  if (!r.communication.empty()) out += "\n" + communication_table(r);
  out += staleness_table(r.input.staleness) + workers_table(r);
  if (!r.limits.empty()) out += "\n" + limits_table(r);
  if (!r.input.links.empty()) out += "\n" + links_table(r.input.links);
  out += "\n" + memory_table(r);
  if (!r.input.assumptions.empty()) {
    out += "\n" + styled("assumed, neither measured nor published:", Style::dim, color) + "\n";
    for (const auto& a : r.input.assumptions)
      out += fmt::format("  {} = {}: {}\n", a.path, a.value, a.reason);
  }
  return out;
}

std::string metrics_csv(const RunReport& report, const Result& result) {
  std::string out = "step,end_s,loss,samples,bytes_per_rank\n";
  const auto& marks = report.ranks[0].steps;
  const Curve& curve = result.curve;
  const bool in_turns = result.input.takes_turns && !result.loss.empty();
  const std::size_t steps = in_turns ? curve.loss.size() : marks.size();
  for (std::size_t step = 0; step < steps; ++step) {
    const double ended = in_turns ? curve.seconds[step] : marks[step].at.seconds().value;
    out += fmt::format("{},{:.12f},",
                       step + 1 + static_cast<std::size_t>(result.input.steps_before), ended);
    out += step < curve.loss.size() ? fmt::format("{:.9g},{},{:.0f}\n", curve.loss[step],
                                                  curve.samples[step], curve.bytes_per_rank[step])
                                    : ",,\n";
  }
  return out;
}

}  // namespace orrery::cli
