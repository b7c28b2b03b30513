// Help and the manual page, from the command table.
#include <fmt/core.h>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/version.hpp"

namespace orrery::cli {

namespace {

constexpr std::size_t width = 100;
const char* const what_it_is =
    "simulates clusters that train neural networks, and runs the same algorithms for real";

std::string usage_of(const Command& command) {
  return fmt::format("orrery {} {}[options]", command.name,
                     command.takes_positional() ? std::string(command.positional) + " " : "");
}

std::string left_of(const Option& option) {
  return fmt::format("--{}{}{}", option.name, *option.value != '\0' ? " " : "", option.value);
}

// Words filled into lines of at most `width`; lines after the first start with
// `indent` spaces.
std::string wrapped(const std::string& text, std::size_t indent) {
  std::string out;
  std::size_t column = indent;
  for (const std::string& word : split(text, ' ')) {
    const bool first = column == indent;
    if (!first && column + 1 + word.size() > width) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (!first) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
  }
  return out;
}

std::string two_columns(const std::string& left, const std::string& right) {
  constexpr std::size_t indent = 22;
  return fmt::format("  {:<{}}{}\n", left, indent - 2, wrapped(right, indent));
}

std::string roff(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else
      out += c;
  }
  return out.starts_with('.') || out.starts_with('\'') ? "\\&" + out : out;
}

}  // namespace

std::string help_text() {
  std::string text = fmt::format("orrery: {}\n\nusage: orrery COMMAND [options]\n\n", what_it_is);
  for (const Command& command : commands()) text += two_columns(command.name, command.summary);
  text +=
      "\n`orrery help COMMAND` tells more; `orrery --version` tells the version.\n\nexit codes\n";
  for (const ExitCode& e : exit_codes()) text += two_columns(std::to_string(e.code), e.meaning);
  return text;
}

std::string help_text(const Command& command) {
  std::string text =
      fmt::format("usage: {}\n\n{}\n\n", usage_of(command), wrapped(command.description, 0));
  for (const Option* option : options_of(command))
    text += two_columns(left_of(*option), option->doc);
  return text + "\nexample: " + command.example + "\n";
}

std::string manual_page() {
  std::string page = fmt::format(".TH ORRERY 1 \"\" \"orrery {}\" \"User Commands\"\n", version());
  page += ".SH NAME\norrery \\- " + roff(what_it_is) + "\n";
  page += ".SH SYNOPSIS\n.B orrery\n.I COMMAND\n[options]\n.SH COMMANDS\n";
  for (const Command& command : commands()) {
    page += fmt::format(".SS {}\n{}\n", roff(usage_of(command)), roff(command.description));
    if (!command.options.empty()) page += ".PP\nOptions:";
    for (const char* name : command.options) page += roff(fmt::format(" --{}", name));
    page += fmt::format("{}.PP\nExample:\n.B {}\n", command.options.empty() ? "" : "\n",
                        roff(command.example));
  }
  page += ".SH OPTIONS\n";
  for (const Option& option : options())
    page += fmt::format(".TP\n.B {}\n{}\n", roff(left_of(option)), roff(option.doc));
  page += ".SH EXIT STATUS\n";
  for (const ExitCode& e : exit_codes())
    page += fmt::format(".TP\n.B {}\n{}\n", e.code, roff(e.meaning));
  return page +
         ".SH ENVIRONMENT\n.TP\n.B NO_COLOR\nset and not empty: no colours.\n.TP\n.B "
         "CLICOLOR_FORCE\nset, neither empty nor 0: colours also where the output is no "
         "terminal.\n";
}

int help(const Arguments& arguments) {
  if (arguments.man) {
    fmt::print("{}", manual_page());
    return 0;
  }
  if (arguments.positional.empty()) {
    fmt::print("{}", help_text());
    return 0;
  }
  const std::string& name = arguments.positional.front();
  const Command* command = find_command(name);
  if (command == nullptr) {
    const std::string hint = did_you_mean(name, command_names());
    throw Error(Category::usage,
                fmt::format("unknown command '{}'; {}", name,
                            hint.empty() ? "there are " + join(command_names(), ", ") : hint));
  }
  fmt::print("{}", help_text(*command));
  return 0;
}

}  // namespace orrery::cli
