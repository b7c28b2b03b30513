// Parsing of command lines by the command table.
#include <fmt/core.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <cctype>
#include <charconv>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"
#include "scenarios/cli/command.hpp"

namespace orrery::cli {

namespace {

namespace po = boost::program_options;

Error unknown(const std::string& what, const std::string& word,
              const std::vector<std::string>& known, const std::string& otherwise) {
  const std::string hint = did_you_mean(word, known);
  return Error(Category::usage,
               fmt::format("unknown {} '{}'; {}", what, word, hint.empty() ? otherwise : hint));
}

ColorMode color_mode(const std::string& text) {
  if (text == "auto") return ColorMode::automatic;
  if (text == "always") return ColorMode::always;
  if (text == "never") return ColorMode::never;
  throw Error(Category::usage, "--color takes auto, always or never, not '" + text + "'");
}

std::string seed_text(const std::string& text) {
  const bool digits =
      !text.empty() && text.size() <= 20 &&
      std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
  if (!digits) throw Error(Category::usage, "--seed takes a whole number, not '" + text + "'");
  return text;
}

// Error{usage} unless it is a number of decimal digits, from 1 to a million.
std::int64_t count_of(const std::string& option, const std::string& text) {
  const bool digits =
      !text.empty() && text.size() <= 7 &&
      std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
  const std::int64_t value = digits ? std::stoll(text) : 0;
  if (value < 1 || value > 1'000'000)
    throw Error(Category::usage,
                fmt::format("--{} takes a whole number from 1 on, not '{}'", option, text));
  return value;
}

// Error{usage} unless it is a number, not below 0.
double number_of(const std::string& option, const std::string& text) {
  double value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0 && value < 1e9))
    throw Error(Category::usage,
                fmt::format("--{} takes a number such as 0.1, not '{}'", option, text));
  return value;
}

po::options_description describe(const Command& command) {
  po::options_description described;
  for (const Option* option : options_of(command)) {
    if (*option->value == '\0')
      described.add_options()(option->name, option->doc);
    else
      described.add_options()(option->name, po::value<std::vector<std::string>>(), option->doc);
  }
  described.add_options()("positional", po::value<std::vector<std::string>>(), "");
  return described;
}

void fill(const po::variables_map& map, Arguments& arguments) {
  const auto last = [&map](const char* name, std::string& to) {
    if (map.count(name) > 0) to = map[name].as<std::vector<std::string>>().back();
  };
  const auto all = [&map](const char* name, std::vector<std::string>& to) {
    if (map.count(name) > 0) to = map[name].as<std::vector<std::string>>();
  };
  all("set", arguments.set);
  all("over", arguments.over);
  all("positional", arguments.positional);
  last("out", arguments.out);
  last("world", arguments.world);
  last("ranks", arguments.ranks);
  last("budget", arguments.budget);
  last("part", arguments.part);
  last("to", arguments.to);
  last("node", arguments.node);
  last("scenario", arguments.scenario);
  last("page", arguments.page);
  last("checkpoint", arguments.checkpoint);
  last("resume", arguments.resume);
  if (map.count("seed") > 0) {
    last("seed", arguments.seed);
    std::vector<std::string> seeds{arguments.seed};
    if (arguments.command == "race") seeds = split(arguments.seed, ',');
    for (std::string& seed : seeds) seed = seed_text(seed);
    arguments.seed = join(seeds, ",");
  }
  std::string number;
  const auto given = [&](const char* name) {
    last(name, number);
    return map.count(name) > 0;
  };
  if (given("checkpoint-every")) arguments.checkpoint_every = count_of("checkpoint-every", number);
  if (given("gpus")) arguments.gpus = count_of("gpus", number);
  if (given("jobs")) arguments.jobs = count_of("jobs", number);
  if (given("repeats")) arguments.repeats = count_of("repeats", number);
  if (given("target-loss")) arguments.target_loss = number_of("target-loss", number);
  if (given("tolerance")) arguments.tolerance = number_of("tolerance", number);
  std::string color = "auto";
  last("color", color);
  arguments.color = color_mode(color);
  arguments.json = map.count("json") > 0;
  arguments.quiet = map.count("quiet") > 0;
  arguments.trace = map.count("trace") > 0;
  arguments.quick = map.count("quick") > 0;
  arguments.profile = map.count("profile") > 0;
  arguments.man = map.count("man") > 0;
  arguments.help = map.count("help") > 0;
}

// Throws Error{usage} for what the command does not take.
po::variables_map parse_options(const Command& command, int argc, const char* const* argv) {
  po::positional_options_description positional;
  positional.add("positional", -1);
  po::variables_map map;
  const po::options_description described = describe(command);
  try {
    po::store(
        po::command_line_parser(argc, argv)
            .options(described)
            .positional(positional)
            .style(po::command_line_style::unix_style & ~po::command_line_style::allow_guessing)
            .run(),
        map);
    po::notify(map);
  } catch (const po::unknown_option& error) {
    std::vector<std::string> names;
    for (const Option* option : options_of(command))
      names.push_back(std::string("--") + option->name);
    throw unknown("option", error.get_option_name(), names,
                  fmt::format("{} takes {}", command.name, join(names, ", ")));
  } catch (const po::error& error) {
    throw Error(Category::usage, error.what());
  }
  return map;
}

}  // namespace

Arguments parse_arguments(int argc, const char* const* argv) {
  if (argc < 2) throw Error(Category::usage, "no command given");
  Arguments arguments;
  arguments.command = argv[1];
  if (arguments.command == "--help" || arguments.command == "-h") arguments.command = "help";
  const Command* command = find_command(arguments.command);
  if (command == nullptr)
    throw unknown(arguments.command.starts_with('-') ? "option before the command" : "command",
                  arguments.command, command_names(), "there are " + join(command_names(), ", "));
  fill(parse_options(*command, argc - 1, argv + 1), arguments);
  if (arguments.help) return arguments;
  const std::size_t given = arguments.positional.size();
  if ((given > 1 && !command->takes_several()) || (given == 1 && !command->takes_positional()) ||
      (given == 0 && command->needs_positional()))
    throw Error(
        Category::usage,
        command->takes_positional()
            ? fmt::format("'{}' takes {} {}", command->name,
                          command->takes_several() ? "at least one" : "one", command->positional)
            : fmt::format("'{}' takes options only, not '{}'", command->name,
                          arguments.positional.front()));
  return arguments;
}

}  // namespace orrery::cli
