// Results as --json printed and --out wrote them, read back: the figures that can be compared.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "backend/core/config.hpp"

namespace orrery::cli {

struct SavedTime {
  std::optional<double> compute_s, exposed_communication_s, bubble_s, overhead_s, idle_s;
  Node rest;
};
void describe(Fields<SavedTime>& f);

struct SavedMemory {
  std::optional<double> peak_bytes;
  std::map<std::string, double> by_label;
  Node rest;
};
void describe(Fields<SavedMemory>& f);

// A figure that is null or absent in the file is empty.
struct SavedResult {
  std::string file, text;  // where it was read, and all that is there
  std::string scenario, world, algorithm;
  std::optional<std::string> cluster;  // of a simulation
  std::optional<double> step_time_s, mfu, hfu, tokens_per_s;
  SavedTime time;
  SavedMemory memory;
  std::vector<double> loss;
  std::optional<double> loss_held_out;
  Node rest;
};
void describe(Fields<SavedResult>& f);

// Throws ConfigError, at its place, for what is no JSON, no result, a result of another schema, or
// the record of a failure.
SavedResult read_saved_result(const std::string& path);

}  // namespace orrery::cli
