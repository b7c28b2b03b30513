#include "scenarios/cli/saved_result.hpp"

#include <fmt/format.h>

#include "backend/core/text.hpp"

namespace orrery::cli {

namespace {

constexpr const char* known_schema = "orrery.result/1";

// Tells a result from everything else before its figures are looked for.
void check_is_result(const Document& document, Problems& problems) {
  const Node& root = document.root();
  const Node* schema = root.is_map() ? root.find("schema") : nullptr;
  if (schema == nullptr || !schema->is_scalar()) {
    problems.add(root.mark, "no result of orrery: it names no schema",
                 "give a file that --json printed, or result.json of an --out folder");
  } else if (schema->text != known_schema) {
    problems.add(schema->mark,
                 fmt::format("the schema is {}, not {}", kind_text(*schema), known_schema),
                 "only results of simulate and run can be compared");
  } else if (const Node* error = root.find("error")) {
    const Node* category = error->is_map() ? error->find("category") : nullptr;
    problems.add(error->where(),
                 fmt::format("the command failed ({}): there are no figures",
                             category != nullptr ? category->text : "no category given"));
  }
}

}  // namespace

void describe(Fields<SavedTime>& f) {
  f.field("compute_s", &SavedTime::compute_s);
  f.field("exposed_communication_s", &SavedTime::exposed_communication_s);
  f.field("bubble_s", &SavedTime::bubble_s);
  f.field("overhead_s", &SavedTime::overhead_s);
  f.field("idle_s", &SavedTime::idle_s);
  f.rest(&SavedTime::rest);
}

void describe(Fields<SavedMemory>& f) {
  f.field("peak_bytes", &SavedMemory::peak_bytes);
  f.map("by_label", &SavedMemory::by_label);
  f.rest(&SavedMemory::rest);
}

void describe(Fields<SavedResult>& f) {
  f.field("scenario", &SavedResult::scenario).required();
  f.field("world", &SavedResult::world).required();
  f.field("algorithm", &SavedResult::algorithm).required();
  f.field("cluster", &SavedResult::cluster);
  f.field("step_time_s", &SavedResult::step_time_s).required();
  f.field("mfu", &SavedResult::mfu);
  f.field("hfu", &SavedResult::hfu);
  f.field("tokens_per_s", &SavedResult::tokens_per_s);
  f.section("time", &SavedResult::time).required();
  f.section("memory", &SavedResult::memory).required();
  f.list("loss", &SavedResult::loss);
  f.field("loss_held_out", &SavedResult::loss_held_out);
  f.rest(&SavedResult::rest);
}

SavedResult read_saved_result(const std::string& path) {
  std::string text = read_file(path);
  const Document document = Document::parse_text(text, path);
  Problems problems(document);
  check_is_result(document, problems);
  problems.throw_if_any();
  auto result = read<SavedResult>(document, problems);
  problems.throw_if_any();
  result.file = path;
  result.text = std::move(text);
  return result;
}

}  // namespace orrery::cli
