// The JSON form of a result; see result.hpp for what the figures mean.
#include <nlohmann/json.hpp>

#include "backend/core/config_error.hpp"
#include "backend/core/sha256.hpp"
#include "scenarios/cli/result.hpp"

namespace orrery::cli {

namespace {

using Json = nlohmann::ordered_json;

Json or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

// A class without time is left out.
Json classes_json(const WorkSums& sums) {
  Json classes = Json::object();
  for (int i = 0; i < work_class_count; ++i)
    if (const double time_s = sums.class_s[static_cast<std::size_t>(i)]; time_s > 0)
      classes[name(static_cast<WorkClass>(i))] = time_s;
  return classes;
}

Json line_json(const WorkLine& line) {
  return {{"operation", line.operation},
          {"kernel", line.kernel.empty() ? Json(nullptr) : Json(line.kernel)},
          {"class", name(line.kind)},
          {"phase", name(line.phase)},
          {"calls", line.calls},
          {"time_s", line.time_s}};
}

Json native_json(const std::vector<NativeLine>& native) {
  std::vector<WorkLine> lines;
  Json functions = Json::array();
  for (const NativeLine& line : native) {
    lines.push_back(line.of);
    functions.push_back(line_json(line.of));
    functions.back()["function"] = line.function;
  }
  return {{"classes_s", classes_json(sums_of(lines))}, {"functions", functions}};
}

// Unknown when it was not kept.
Json work_json(const Result& r) {
  if (r.work.empty()) return nullptr;
  const WorkSums sums = sums_of(r.work);
  Json phases = Json::object(), kernels = Json::array();
  for (int i = 0; i < phase_count; ++i)
    phases[name(static_cast<WorkPhase>(i))] = sums.phase_s[static_cast<std::size_t>(i)];
  for (const WorkLine& line : r.work) kernels.push_back(line_json(line));
  Json j{{"phases_s", phases}, {"classes_s", classes_json(sums)}, {"kernels", kernels}};
  if (!r.native.empty()) j["native"] = native_json(r.native);
  return j;
}

Json memory_json(const Result& r) {
  Json labels = Json::object();
  for (int i = 0; i < label_count; ++i)
    labels[name(static_cast<Label>(i))] = r.by_label[static_cast<std::size_t>(i)].value;
  Json j = {
      {"rank", r.memory_rank},
      {"peak_bytes", r.peak_bytes.value},
      {"capacity_bytes", r.input.capacity.value > 0 ? Json(r.input.capacity.value) : Json(nullptr)},
      {"by_label", labels}};
  if (r.pool)
    j["pool"] = {{"used_bytes", r.pool->used.value}, {"reserved_bytes", r.pool->reserved.value}};
  return j;
}

Json communication_json(const Result& r) {
  Json rows = Json::array();
  for (const CommunicationRow& row : r.communication)
    rows.push_back({{"group", row.group},
                    {"operation", row.operation},
                    {"lane", row.lane},
                    {"calls", row.calls},
                    {"bytes_per_rank", row.bytes_per_rank},
                    {"time_s", row.time_s},
                    {"exposed_s", row.exposed_s}});
  return rows;
}

Json workers_json(const Result& r) {
  Json rows = Json::array();
  for (const WorkerRow& row : r.workers)
    rows.push_back({{"sample_share", row.sample_share}, {"idle_share", row.idle_share}});
  return rows;
}

Json staleness_json(const std::vector<StalenessRow>& staleness) {
  Json rows = Json::array();
  for (const StalenessRow& row : staleness)
    rows.push_back({{"updates", row.updates}, {"predicted", row.predicted}, {"share", row.share}});
  return rows;
}

Json replicas_json(const Result& r) {
  const std::vector<double>& steps = r.replica_steps_s;
  double sum = 0;
  for (const double s : steps) sum += s;
  return {{"count", steps.size()},
          {"step_time_s",
           {{"min", steps.front()},
            {"p10", quantile(steps, 0.1)},
            {"p50", quantile(steps, 0.5)},
            {"p90", quantile(steps, 0.9)},
            {"max", steps.back()},
            {"mean", sum / static_cast<double>(steps.size())}}}};
}

Json limits_json(const Result& r) {
  Json rows = Json::array();
  for (const BottleneckRow& row : r.limits)
    rows.push_back({{"resource", row.resource},
                    {"change", row.change},
                    {"step_time_s", row.step_time_s},
                    {"mfu_points", r.mfu ? Json(row.mfu_points) : Json(nullptr)}});
  return rows;
}

Json links_json(const std::vector<LinkRow>& links) {
  Json rows = Json::array();
  for (const LinkRow& row : links)
    rows.push_back({{"tier", row.tier},
                    {"links", row.links},
                    {"busiest", row.busiest},
                    {"busiest_share", row.busiest_share},
                    {"mean_share", row.mean_share}});
  return rows;
}

Json body_json(const Result& r) {
  const ResultInput& in = r.input;
  Json j;
  j["schema"] = "orrery.result/1";
  j["scenario"] = in.subject.scenario;
  j["world"] = in.world;
  j["model"] = in.subject.model;
  j["parameters"] = in.subject.parameters;
  j["algorithm"] = in.subject.algorithm;
  j["cluster"] = in.subject.cluster.empty() ? Json(nullptr) : Json(in.subject.cluster);
  j["gpus"] = in.subject.gpus.empty() ? Json(nullptr) : Json(in.subject.gpus);
  j["ranks"] = in.ranks;
  j["simulated_ranks"] = in.simulated_ranks;
  j["steps"] = in.subject.steps;
  if (in.steps_before > 0) j["steps_before"] = in.steps_before;
  j["seed"] = in.subject.seed;
  j["step_time_s"] = in.subject.steps > 0 ? Json(r.step_time_s) : Json(nullptr);
  j["step_time_low_s"] = or_null(in.step_time_low_s);
  j["step_time_high_s"] = or_null(in.step_time_high_s);
  j["tokens_per_s"] = r.tokens_per_s;
  j["tokens_per_s_per_gpu"] = r.tokens_per_s_per_gpu;
  j["flops_per_step"] = in.flops_per_step.value > 0 ? Json(in.flops_per_step.value) : Json(nullptr);
  j["flop_rule"] = in.flop_rule;
  j["peak_tflops"] = or_null(r.peak_tflops);
  j["tflops_per_gpu"] = or_null(r.tflops_per_gpu);
  j["mfu"] = or_null(r.mfu);
  j["hfu"] = or_null(r.hfu);
  j["time"] = {{"compute_s", r.compute_s},
               {"exposed_communication_s", r.exposed_communication_s},
               {"bubble_s", r.bubble_s},
               {"overhead_s", r.overhead_s},
               {"idle_s", r.idle_s}};
  j["work"] = work_json(r);
  j["communication"] = communication_json(r);
  j["staleness"] = staleness_json(in.staleness);
  if (!r.workers.empty()) j["workers"] = workers_json(r);
  if (in.unequal)
    j["busy"] = {{"least", r.busy_least}, {"median", r.busy_median}, {"most", r.busy_most}};
  if (!r.replica_steps_s.empty()) j["replicas"] = replicas_json(r);
  if (!r.limits.empty()) j["bottleneck"] = limits_json(r);
  if (!in.links.empty()) j["links"] = links_json(in.links);
  j["memory"] = memory_json(r);
  j["loss"] = r.loss;
  if (!r.loss.empty())
    j["loss_at"] = {{"loss", r.curve.loss},
                    {"seconds", r.curve.seconds},
                    {"samples", r.curve.samples},
                    {"bytes_per_rank", r.curve.bytes_per_rank}};
  if (r.loss_held_out) j["loss_held_out"] = *r.loss_held_out;
  for (const ConsensusRow& row : in.loss_consensus)
    j["loss_consensus"].push_back({{"step", row.step}, {"loss", row.loss}});
  j["activities"] = r.activities;
  j["flows"] = r.flows;
  j["assumptions"] = Json::array();
  for (const auto& a : in.assumptions)
    j["assumptions"].push_back({{"path", a.path}, {"value", a.value}, {"reason", a.reason}});
  j["warnings"] = in.warnings;
  return j;
}

}  // namespace

std::string to_json(const Result& result) {
  Json j = body_json(result);
  j["fingerprint"] = sha256_hex(j.dump());
  j["host"] = {{"wall_s", result.input.wall_s},
               {"cpu_s", result.input.cpu_s},
               {"peak_rss_bytes", result.peak_rss_bytes},
               {"version", result.version},
               {"build", result.build}};
  return j.dump(2) + "\n";
}

std::string error_json(const std::exception& error) {
  Json j;
  j["schema"] = "orrery.result/1";
  Json messages = Json::array();
  Category category = Category::internal;
  if (const auto* known = dynamic_cast<const Error*>(&error)) category = known->category();
  if (const auto* config = dynamic_cast<const ConfigError*>(&error)) {
    for (const ConfigMessage& m : config->messages)
      messages.push_back(
          {{"file", m.file},
           {"line", m.line > 0 ? Json(m.line) : Json(nullptr)},
           {"column", m.column > 0 ? Json(m.column) : Json(nullptr)},
           {"text", m.text},
           {"suggestion", m.suggestion.empty() ? Json(nullptr) : Json(m.suggestion)}});
  } else {
    const auto* with_context = dynamic_cast<const Error*>(&error);
    const std::string file = with_context != nullptr ? with_context->context("file") : "";
    messages.push_back({{"file", file.empty() ? Json(nullptr) : Json(file)},
                        {"line", nullptr},
                        {"column", nullptr},
                        {"text", error.what()},
                        {"suggestion", nullptr}});
  }
  j["error"] = {
      {"category", name(category)}, {"exit_code", exit_code(category)}, {"messages", messages}};
  return j.dump(2) + "\n";
}

}  // namespace orrery::cli
