// What the words of published tables mean here: the table scenarios/published/aliases.yaml.
//
// A text of a table may hold '*' for any characters; case does not matter. The first row that
// matches counts. GPUs and stacks are also known by the names and aliases of their platform files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/core/config.hpp"

namespace orrery {

struct Alias {
  std::string means;
  std::vector<std::string> texts;
  std::string assumption;  // what was taken for granted in saying so; "" for nothing
};
void describe(Fields<Alias>& f);

// A network between nodes.
struct NetworkAlias {
  std::string means;
  std::vector<std::string> texts;
  std::string assumption;
  std::optional<BytesPerSecond> per_node;  // of all ports of a node, one way; absent: of `machines`
};
void describe(Fields<NetworkAlias>& f);

// Clusters of one kind of node, smallest first.
struct MachineAlias {
  std::string gpu;
  std::int64_t gpus_per_node = 8;
  std::string interconnect;  // between nodes, as `interconnect` of the table means it
  std::vector<std::string> clusters;
};
void describe(Fields<MachineAlias>& f);

// What the tables do not print of a model, by its name.
struct ModelFamily {
  std::string means;
  std::vector<std::string> texts;
  std::string norm, activation;
  bool gated = false, tied = false, learned_positions = false, biases = false;
};
void describe(Fields<ModelFamily>& f);

struct AliasTable {
  std::vector<Alias> gpu, precision, recompute, sharding, pp_schedule, stack;
  std::vector<Alias> flop_rule, collective;
  std::vector<NetworkAlias> interconnect;
  std::vector<MachineAlias> machines;
  std::vector<ModelFamily> models;
};
void describe(Fields<AliasTable>& f);

// Throws ConfigError.
AliasTable read_aliases(const std::string& path);

// Whether the whole text is `pattern`, in which '*' stands for any characters.
bool matches(std::string_view pattern, std::string_view text);
bool matches_any(const std::vector<std::string>& patterns, std::string_view text);
// The first row with a text that matches; null when there is none.
template <class Row>
const Row* find_alias(const std::vector<Row>& rows, std::string_view text) {
  for (const Row& row : rows)
    if (matches_any(row.texts, text)) return &row;
  return nullptr;
}

}  // namespace orrery
