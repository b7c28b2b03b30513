#include "scenarios/published/aliases.hpp"

#include <algorithm>
#include <cctype>

namespace orrery {

namespace {

char lower(char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }

}  // namespace

void describe(Fields<Alias>& f) {
  f.field("means", &Alias::means).required();
  f.list("texts", &Alias::texts).required().at_least_items(1);
  f.field("assumption", &Alias::assumption);
}

void describe(Fields<NetworkAlias>& f) {
  f.field("means", &NetworkAlias::means).required();
  f.list("texts", &NetworkAlias::texts).required().at_least_items(1);
  f.field("assumption", &NetworkAlias::assumption);
  f.field("per_node", &NetworkAlias::per_node).positive();
}

void describe(Fields<MachineAlias>& f) {
  f.field("gpu", &MachineAlias::gpu).required();
  f.field("gpus_per_node", &MachineAlias::gpus_per_node).required().at_least(1);
  f.field("interconnect", &MachineAlias::interconnect).required();
  f.list("clusters", &MachineAlias::clusters).required().at_least_items(1);
}

void describe(Fields<ModelFamily>& f) {
  f.field("means", &ModelFamily::means).required();
  f.list("texts", &ModelFamily::texts).required().at_least_items(1);
  f.field("norm", &ModelFamily::norm).required();
  f.field("activation", &ModelFamily::activation).required();
  f.field("gated", &ModelFamily::gated);
  f.field("tied", &ModelFamily::tied);
  f.field("learned_positions", &ModelFamily::learned_positions);
  f.field("biases", &ModelFamily::biases);
}

void describe(Fields<AliasTable>& f) {
  for (const auto& [name, member] : {std::pair{"gpu", &AliasTable::gpu},
                                     {"precision", &AliasTable::precision},
                                     {"recompute", &AliasTable::recompute},
                                     {"sharding", &AliasTable::sharding},
                                     {"pp_schedule", &AliasTable::pp_schedule},
                                     {"stack", &AliasTable::stack},
                                     {"flop_rule", &AliasTable::flop_rule},
                                     {"collective", &AliasTable::collective}})
    f.list(name, member).required();
  f.list("interconnect", &AliasTable::interconnect).required();
  f.list("machines", &AliasTable::machines).required();
  f.list("models", &AliasTable::models).required();
}

AliasTable read_aliases(const std::string& path) {
  return read<AliasTable>(Document::parse_file(path));
}

bool matches(std::string_view pattern, std::string_view text) {
  // The usual walk with one point to return to: the last '*'.
  std::size_t p = 0, t = 0, star = std::string_view::npos, from = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      from = t;
    } else if (p < pattern.size() && lower(pattern[p]) == lower(text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++from;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

bool matches_any(const std::vector<std::string>& patterns, std::string_view text) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [text](const std::string& pattern) { return matches(pattern, text); });
}

}  // namespace orrery
