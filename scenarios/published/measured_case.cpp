#include "scenarios/published/measured_case.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>

#include "backend/core/text.hpp"
#include "scenarios/published/not_scored.hpp"

namespace orrery {

namespace {

struct Head {
  Node source, defaults, stack, rest;
  std::vector<Node> cases;
};
void describe(Fields<Head>& f) {
  f.open("source", &Head::source);
  f.open("defaults", &Head::defaults);
  f.open("stack", &Head::stack);
  f.list("cases", &Head::cases).required().at_least_items(1);
  f.rest(&Head::rest);
}

struct Name {
  std::string id, kind;
  Node rest;
};
void describe(Fields<Name>& f) {
  f.field("id", &Name::id).required();
  f.field("kind", &Name::kind).required();
  f.rest(&Name::rest);
}

// The entries of `c`, then those of `defaults` that it lacks.
Node with_defaults(Node c, const Node& defaults, const Node& stack) {
  if (defaults.is_map())
    for (const Node& entry : defaults.children)
      if (c.find(entry.key) == nullptr) c.children.push_back(entry);
  if (!stack.is_null() && c.find("stack") == nullptr) c.add("stack", stack);
  return c;
}

std::string sentence(const Problems& problems) {
  std::vector<std::string> parts;
  for (const ConfigMessage& m : problems.sorted())
    parts.push_back(fmt::format("{}:{}: {}", m.line, m.column, m.text));
  return join(parts, "; ");
}

std::string entry_text(const Node& map, const char* key) {
  const Node* found = map.is_map() ? map.find(key) : nullptr;
  return found == nullptr ? "" : word(*found);
}

// A factor of a product: a number or the name of a size.
std::optional<double> factor(std::string_view text, const MeasuredCase& c) {
  for (const auto& [name, size] :
       {std::pair{"hidden", c.hidden}, {"heads", c.heads}, {"layers", c.layers}})
    if (text == name) return size ? std::optional(static_cast<double>(*size)) : std::nullopt;
  const std::string copy(text);
  char* end = nullptr;
  const double value = std::strtod(copy.c_str(), &end);
  if (copy.empty() || *end != '\0') return std::nullopt;
  return value;
}

// DiLoCo and its kind.
void describe_low_communication(Fields<MeasuredCase>& f) {
  using C = MeasuredCase;
  f.open("arch", &C::arch);
  for (const auto& [name, member] : {std::pair{"sync_every", &C::sync_every},
                                     {"fragment_layers", &C::fragment_layers},
                                     {"overlap_steps", &C::overlap_steps},
                                     {"outer_bits", &C::outer_bits}})
    f.field(name, member).between(0, 1'000'000);
  for (const auto& [name, member] : {std::pair{"params", &C::params},
                                     {"step_s", &C::step_s},
                                     {"compute_utilization", &C::compute_utilization},
                                     {"bandwidth_gbit_s", &C::bandwidth_gbit_s},
                                     {"inner_phase_s", &C::inner_phase_s},
                                     {"allreduce_median_s", &C::allreduce_median_s}})
    f.field(name, member).at_least(0);
}

}  // namespace

void describe(Fields<MeasuredCase>& f) {
  using C = MeasuredCase;
  f.field("id", &C::id).required();
  f.field("kind", &C::kind).required();
  for (const auto& [name, member] : {std::pair{"model", &C::model},
                                     {"gpu", &C::gpu},
                                     {"interconnect", &C::interconnect},
                                     {"scale_up_domain", &C::scale_up_domain},
                                     {"precision", &C::precision},
                                     {"recompute", &C::recompute},
                                     {"sharding", &C::sharding},
                                     {"pp_schedule", &C::pp_schedule},
                                     {"framework", &C::framework},
                                     {"stack", &C::stack},
                                     {"op", &C::op},
                                     {"stage", &C::stage},
                                     {"tflops_def", &C::tflops_def},
                                     {"attention", &C::attention},
                                     {"tokens", &C::tokens},
                                     {"ffn_hidden", &C::ffn_hidden},
                                     {"kv_heads", &C::kv_heads}})
    f.open(name, member);
  for (const auto& [name, member] : {std::pair{"layers", &C::layers},
                                     {"hidden", &C::hidden},
                                     {"heads", &C::heads},
                                     {"vocab", &C::vocab},
                                     {"seq_len", &C::seq_len},
                                     {"experts", &C::experts},
                                     {"gpus", &C::gpus},
                                     {"gpus_per_node", &C::gpus_per_node},
                                     {"gpus_per_node_used", &C::gpus_per_node_used},
                                     {"nodes", &C::nodes},
                                     {"tp", &C::tp},
                                     {"pp", &C::pp},
                                     {"dp", &C::dp},
                                     {"cp", &C::cp},
                                     {"ep", &C::ep},
                                     {"vpp", &C::vpp},
                                     {"micro_batch", &C::micro_batch},
                                     {"grad_accum", &C::grad_accum},
                                     {"num_microbatches", &C::num_microbatches},
                                     {"global_batch", &C::global_batch},
                                     {"local_batch", &C::local_batch},
                                     {"batch_per_dp", &C::batch_per_dp},
                                     {"m", &C::m},
                                     {"n", &C::n},
                                     {"k", &C::k},
                                     {"batch", &C::batch},
                                     {"qk_head_dim", &C::qk_head_dim},
                                     {"v_head_dim", &C::v_head_dim}})
    f.field(name, member).between(0, 1'000'000'000'000);
  f.field("swiglu", &C::swiglu);
  f.field("sequence_parallel", &C::sequence_parallel);
  f.field("compile", &C::compile);
  f.field("fp8_all_gather", &C::fp8_all_gather);
  f.field("bytes", &C::bytes).between(1, 1e15);
  for (const auto& [name, member] : {std::pair{"peak_tflops", &C::peak_tflops},
                                     {"iter_s", &C::iter_s},
                                     {"iter_s_derived", &C::iter_s_derived},
                                     {"tokens_s", &C::tokens_s},
                                     {"tokens_s_gpu", &C::tokens_s_gpu},
                                     {"samples_s_gpu", &C::samples_s_gpu},
                                     {"tflops_gpu", &C::tflops_gpu},
                                     {"mfu", &C::mfu},
                                     {"time_s", &C::time_s},
                                     {"efficiency", &C::efficiency},
                                     {"busbw_gb_s", &C::busbw_gb_s},
                                     {"algbw_gb_s", &C::algbw_gb_s},
                                     {"bubble_rate", &C::bubble_rate},
                                     {"t_fwd_s", &C::t_fwd_s},
                                     {"t_bwd_input_s", &C::t_bwd_input_s},
                                     {"t_bwd_weight_s", &C::t_bwd_weight_s},
                                     {"t_comm_s", &C::t_comm_s},
                                     {"mem_gib_reported", &C::mem_gib_reported},
                                     {"activation_gib", &C::activation_gib},
                                     {"activation_memory_rel", &C::activation_memory_rel}})
    f.field(name, member).at_least(0);
  describe_low_communication(f);
  f.rest(&C::rest);
}

MeasuredFile read_measured_file(const std::string& path) {
  const Document document = Document::parse_file(path);
  Problems problems(document);
  const auto head = read<Head>(document, problems);
  MeasuredFile file;
  file.name = std::filesystem::path(path).filename().string();
  file.title = entry_text(head.source, "title");
  file.repo = entry_text(head.source, "repo");
  if (!head.defaults.is_null() && !head.defaults.is_map())
    problems.add("defaults",
                 fmt::format("defaults is {}, not a mapping", kind_text(head.defaults)));
  std::map<std::string, int> lines;
  for (const Node& node : head.cases) {
    const auto name = read<Name>(node, problems);
    if (name.id.empty()) continue;
    const auto [first, fresh] = lines.emplace(name.id, node.mark.line);
    if (!fresh)
      problems.add(node.where(), fmt::format("two cases have the id '{}'", name.id),
                   fmt::format("the first is in line {}", first->second));
    Problems of_case;
    file.cases.push_back(
        read<MeasuredCase>(with_defaults(node, head.defaults, head.stack), of_case));
    file.cases.back().id = name.id;
    file.cases.back().kind = name.kind;
    file.cases.back().unreadable = sentence(of_case);
  }
  problems.throw_if_any();
  return file;
}

std::string word(const Node& node) {
  return node.is_scalar() ? std::string(trim(node.text)) : std::string();
}

std::optional<std::int64_t> size_of(const Node& node, const MeasuredCase& c) {
  if (node.is_null()) return std::nullopt;
  const std::string text = word(node);
  double product = 1;
  bool divide = false;
  std::string piece;
  const auto take = [&] {
    const std::optional<double> value = factor(trim(piece), c);
    if (!value || !(*value > 0))
      throw NotScored(fmt::format("{}: '{}' is not a size", node.key, text));
    product = divide ? product / *value : product * *value;
    piece.clear();
  };
  for (const char each : text) {
    if (each != '*' && each != '/') {
      piece += each;
      continue;
    }
    take();
    divide = each == '/';
  }
  take();
  if (!(product < 1e15)) throw NotScored(fmt::format("{}: '{}' is not a size", node.key, text));
  return std::llround(product);
}

std::string one_sentence(const std::exception& error) {
  const auto* config = dynamic_cast<const ConfigError*>(&error);
  const auto* known = dynamic_cast<const Error*>(&error);
  std::vector<std::string> texts;
  if (config != nullptr)
    for (const ConfigMessage& m : config->messages) texts.push_back(m.text);
  else
    texts.push_back(known != nullptr ? known->message() : error.what());
  constexpr std::string_view refusal = "not available yet: ";
  std::vector<std::string> refused, other;
  for (const std::string& text : texts) {
    const bool refuses = text.starts_with(refusal);
    std::vector<std::string>& list = refuses ? refused : other;
    std::string part = refuses ? text.substr(refusal.size()) : text;
    if (std::find(list.begin(), list.end(), part) == list.end()) list.push_back(std::move(part));
  }
  if (!refused.empty()) other.insert(other.begin(), std::string(refusal) + join(refused, ", "));
  return join(other, "; ");
}

}  // namespace orrery
