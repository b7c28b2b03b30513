#include "scenarios/cli/provenance.hpp"

#include <fmt/core.h>

#include "calibration/calibrate.hpp"
#include "scenarios/cli/children.hpp"
#include "scenarios/cli/cuda_world.hpp"

namespace orrery::cli {

namespace {

// Quoted where a shell would take it for more than a word.
std::string shell_word(const std::string& word) {
  const bool plain = !word.empty() && word.find_first_not_of(
                                          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                          "0123456789_-+=./:,%@") == std::string::npos;
  if (plain) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace

std::string command_text(const Arguments& a) {
  std::string text = "orrery " + a.command;
  const auto add = [&text](const std::string& option, const std::string& value) {
    text += " " + option + " " + shell_word(value);
  };
  for (const std::string& word : a.positional) text += " " + shell_word(word);
  add("--world", a.world);
  for (const std::string& assignment : a.set) add("--set", assignment);
  if (!a.seed.empty()) add("--seed", a.seed);
  if (a.command == "validate") add("--repeats", std::to_string(a.repeats));
  if (a.profile) text += " --profile";
  return text;
}

Provenance provenance_here(const Arguments& arguments) {
  const MachineFacts machine = machine_facts();
  Provenance p{machine.date, command_text(arguments), machine.processor, machine.system};
  if (arguments.world != "cuda") return p;
  // In a child, as in check_world.
  const std::string facts = in_child([] {
    const GpuFacts gpu = gpu_facts_here();
    return gpu.device + "\n" + gpu.driver;
  });
  const std::size_t end = facts.find('\n');
  p.device = facts.substr(0, end);
  p.driver = facts.substr(end + 1);
  return p;
}

}  // namespace orrery::cli
