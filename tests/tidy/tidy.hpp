// The house rules that a program can check. Each is a function over files in memory, so that its
// test can plant an offence.
#pragma once

#include <string>
#include <vector>

#include "tests/support/source_tree.hpp"

namespace orrery {

struct Rule {
  std::string name;  // a statement that holds of a tidy tree
  std::vector<Offence> (*check)(const SourceTree&);
};

// All rules, in the order in which their tests run.
const std::vector<Rule>& tidy_rules();

// The offences against one rule. Throws std::out_of_range for an unknown name.
std::vector<Offence> check_rule(const std::string& name, const SourceTree& tree);

// The functions of C++ text (blanked by code_only) that span more than `limit` lines.
struct LongFunction {
  int line = 0;   // where it starts
  int lines = 0;  // how many it spans
};
std::vector<LongFunction> long_functions(std::string_view code, int limit);

}  // namespace orrery
