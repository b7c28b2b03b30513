#include "scenarios/cli/command.hpp"

#include <fmt/core.h>

#include <boost/program_options.hpp>
#include <cstdio>
#include <iostream>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"
#include "scenarios/cli/result.hpp"
#include "scenarios/cli/version.hpp"

namespace orrery::cli {

namespace {

namespace po = boost::program_options;

struct Option {
  const char* name;
  const char* value;  // "" for a switch
  const char* doc;
  bool common;
};

const std::vector<Option>& options() {
  static const std::vector<Option> all{
      {"set", "PATH=VALUE",
       "change a field of the scenario, e.g. parallel.tensor=8; may be repeated", true},
      {"seed", "N", "seed of every random number (run.seed)", true},
      {"json", "", "print the result as one JSON object", true},
      {"out", "DIR",
       "write result.json, metrics.csv, memory.csv, config.resolved.yaml and provenance.json there",
       true},
      {"quiet", "", "no progress line", true},
      {"color", "WHEN", "auto, always or never; NO_COLOR is honoured", true},
      {"help", "", "this text", true},
      {"trace", "", "also write trace.json.gz into the --out folder (open it in Perfetto)", false},
      {"world", "WORLD", "where to run: cpu", false},
      {"checkpoint", "FILE", "write the state at the end there", false},
      {"resume", "FILE", "start from the state in this file", false}};
  return all;
}

bool takes(const Command& command, const Option& option) {
  if (option.common) return true;
  for (const char* name : command.options)
    if (std::string(name) == option.name) return true;
  return false;
}

Error unknown(const std::string& what, const std::string& word,
              const std::vector<std::string>& known) {
  const std::string hint = did_you_mean(word, known);
  return Error(Category::usage,
               "unknown " + what + " '" + word + "'" + (hint.empty() ? "" : "; " + hint));
}

ColorMode color_mode(const std::string& text) {
  if (text == "auto") return ColorMode::automatic;
  if (text == "always") return ColorMode::always;
  if (text == "never") return ColorMode::never;
  throw Error(Category::usage, "--color takes auto, always or never, not '" + text + "'");
}

Arguments from(const po::variables_map& map, Arguments arguments) {
  if (map.count("set") > 0) arguments.set = map["set"].as<std::vector<std::string>>();
  if (map.count("seed") > 0) arguments.seed = map["seed"].as<std::uint64_t>();
  if (map.count("out") > 0) arguments.out = map["out"].as<std::string>();
  if (map.count("world") > 0) arguments.world = map["world"].as<std::string>();
  if (map.count("checkpoint") > 0) arguments.checkpoint = map["checkpoint"].as<std::string>();
  if (map.count("resume") > 0) arguments.resume = map["resume"].as<std::string>();
  if (map.count("color") > 0) arguments.color = color_mode(map["color"].as<std::string>());
  if (map.count("scenario") > 0)
    arguments.positional = map["scenario"].as<std::vector<std::string>>();
  arguments.json = map.count("json") > 0;
  arguments.quiet = map.count("quiet") > 0;
  arguments.trace = map.count("trace") > 0;
  arguments.help = map.count("help") > 0;
  return arguments;
}

po::options_description describe(const Command& command) {
  po::options_description described;
  for (const Option& option : options()) {
    if (!takes(command, option)) continue;
    const std::string name = option.name;
    if (std::string(option.value).empty())
      described.add_options()(option.name, option.doc);
    else if (name == "set")
      described.add_options()(option.name, po::value<std::vector<std::string>>(), option.doc);
    else if (name == "seed")
      described.add_options()(option.name, po::value<std::uint64_t>(), option.doc);
    else
      described.add_options()(option.name, po::value<std::string>(), option.doc);
  }
  described.add_options()("scenario", po::value<std::vector<std::string>>(), "");
  return described;
}

}  // namespace

const std::vector<Command>& commands() {
  static const std::vector<Command> all{
      {"simulate",
       "SCENARIO",
       "predict step time, MFU and memory of a training run",
       "Runs the scenario's training algorithm inside a simulated cluster and prints where the "
       "time and the memory go.",
       "orrery simulate scenarios/quickstart.yaml --set platform.gpus=8",
       {"trace"},
       simulate},
      {"run",
       "SCENARIO",
       "run the same algorithm for real",
       "Runs the scenario's training algorithm on this machine, one rank per simulated GPU, on "
       "real values.",
       "orrery run scenarios/mlp-ddp.yaml --world cpu",
       {"world", "checkpoint", "resume"},
       run},
      {"check",
       "SCENARIO",
       "validate a scenario and its platform without running it",
       "Reads everything the scenario refers to and reports all that is wrong at once.",
       "orrery check scenarios/quickstart.yaml",
       {},
       check},
      {"trace",
       "SCENARIO",
       "simulate and write a timeline for Perfetto",
       "Simulates and writes trace.json.gz: one process per rank, one track per stream.",
       "orrery trace scenarios/quickstart.yaml --out results",
       {},
       trace},
      {"schema",
       "",
       "print the JSON Schema of scenarios",
       "For editors: the schema that a scenario file is checked against.",
       "orrery schema > scenario.schema.json",
       {},
       schema},
      {"doctor",
       "",
       "tell what this build and machine can do",
       "Versions and limits that matter for simulations and runs.",
       "orrery doctor",
       {},
       doctor}};
  return all;
}

const Command* find_command(const std::string& name) {
  for (const Command& command : commands())
    if (name == command.name) return &command;
  return nullptr;
}

std::string help_text() {
  std::string text =
      "orrery: simulates clusters that train neural networks, and runs the same algorithms for "
      "real\n\nusage: orrery COMMAND [options]\n\n";
  for (const Command& command : commands())
    text += fmt::format("  {:<10} {}\n", command.name, command.summary);
  return text +
         "\n`orrery COMMAND --help` tells more. Exit codes: 0 ok, 1 internal error, 2 usage, 3 "
         "invalid scenario or\nplatform, 4 simulated failure "
         "(out of memory, deadlock, mismatch), 5 outside tolerance, 6 device or "
         "backend\nunavailable, 130 interrupted.\n";
}

std::string help_text(const Command& command) {
  std::string text =
      fmt::format("usage: orrery {} {}{}[options]\n\n{}\n\n", command.name, command.positional,
                  *command.positional ? " " : "", command.description);
  for (const Option& option : options())
    if (takes(command, option))
      text += fmt::format("  {:<24} {}\n", fmt::format("--{} {}", option.name, option.value),
                          option.doc);
  return text + "\nexample: " + command.example + "\n";
}

Arguments parse_arguments(int argc, const char* const* argv) {
  Arguments arguments;
  if (argc < 2) throw Error(Category::usage, "no command given");
  arguments.command = argv[1];
  if (arguments.command == "--help" || arguments.command == "help" || arguments.command == "-h") {
    arguments.command = argc > 2 ? argv[2] : "";
    arguments.help = true;
    if (arguments.command.empty()) return arguments;
  }
  const Command* command = find_command(arguments.command);
  if (command == nullptr) {
    std::vector<std::string> names;
    for (const Command& c : commands()) names.emplace_back(c.name);
    throw unknown("command", arguments.command, names);
  }
  if (arguments.help) return arguments;
  po::positional_options_description positional;
  positional.add("scenario", -1);
  po::variables_map map;
  const po::options_description described = describe(*command);
  try {
    po::store(
        po::command_line_parser(argc - 1, argv + 1)
            .options(described)
            .positional(positional)
            .style(po::command_line_style::unix_style & ~po::command_line_style::allow_guessing)
            .run(),
        map);
    po::notify(map);
  } catch (const po::unknown_option& error) {
    std::vector<std::string> names;
    for (const Option& option : options())
      if (takes(*command, option)) names.push_back(std::string("--") + option.name);
    throw unknown("option", error.get_option_name(), names);
  } catch (const po::error& error) {
    throw Error(Category::usage, error.what());
  }
  arguments = from(map, arguments);
  const std::size_t wanted = *command->positional ? 1 : 0;
  if (!arguments.help && arguments.positional.size() != wanted)
    throw Error(Category::usage,
                fmt::format("'{}' takes {}", command->name,
                            wanted == 0 ? "no file" : fmt::format("one {}", command->positional)));
  return arguments;
}

int main_program(int argc, const char* const* argv) {
  bool json = false;
  for (int i = 1; i < argc; ++i) json = json || std::string(argv[i]) == "--json";
  try {
    if (argc == 2 && std::string(argv[1]) == "--version") {
      fmt::print("orrery {}\n", version());
      return 0;
    }
    const Arguments arguments = parse_arguments(argc, argv);
    if (arguments.help) {
      const Command* command = find_command(arguments.command);
      fmt::print("{}", command != nullptr ? help_text(*command) : help_text());
      return 0;
    }
    return find_command(arguments.command)->run(arguments);
  } catch (const std::exception& error) {
    const auto* known = dynamic_cast<const Error*>(&error);
    const Category category = known != nullptr ? known->category() : Category::internal;
    if (json) fmt::print("{}", error_json(error));
    const std::string text = error.what();
    const bool labelled = text.starts_with("error[");
    fmt::print(stderr, "{}{}{}", labelled ? "" : fmt::format("error[{}]: ", name(category)), text,
               text.ends_with('\n') ? "" : "\n");
    if (category == Category::usage) fmt::print(stderr, "`orrery --help` lists the commands\n");
    return exit_code(category);
  }
}

}  // namespace orrery::cli
