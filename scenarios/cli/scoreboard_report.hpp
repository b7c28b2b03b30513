// The scoreboard as people and as programs read it.
#pragma once

#include <string>
#include <vector>

#include "scenarios/published/score.hpp"

namespace orrery::cli {

// A table with a row per file and kind, then the reasons of the skipped cases with their numbers.
std::string scoreboard_table(const std::vector<ScoredCase>& cases, bool color);
// Schema orrery.scoreboard/1: one object with a final newline, the same bytes for the same cases.
std::string scoreboard_json(const std::vector<ScoredCase>& cases);

}  // namespace orrery::cli
