// Completions for shells, from the command table.
#include <fmt/core.h>

#include "backend/core/error.hpp"
#include "backend/core/text.hpp"
#include "scenarios/cli/command.hpp"

namespace orrery::cli {

namespace {

std::vector<std::string> words_of(const Command& command) {
  return command.words != nullptr ? command.words() : std::vector<std::string>{};
}

std::string option_names(const Command& command) {
  std::vector<std::string> names;
  for (const Option* option : options_of(command))
    names.push_back(std::string("--") + option->name);
  return join(names, " ");
}

// Words come from names of files and tables of ours; quotes in them would end a string.
std::string shell_quoted(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return "'" + out + "'";
}

const char* bash_action(Completes completes) {
  switch (completes) {
    case Completes::files:
      return "-f";
    case Completes::folders:
      return "-d";
    case Completes::words:
    case Completes::nothing:
      break;
  }
  return "";
}

std::string bash() {
  std::string out =
      "# bash completion for orrery, made by `orrery completion bash`\n"
      "_orrery() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n"
      "  local options='' words='' action=''\n"
      "  COMPREPLY=()\n"
      "  if ((COMP_CWORD == 1)); then\n";
  out += fmt::format("    mapfile -t COMPREPLY < <(compgen -W {} -- \"$word\")\n    return\n  fi\n",
                     shell_quoted(join(command_names(), " ") + " --help --version"));
  out += "  case $before in\n";
  for (const Option& option : options()) {
    if (*option.value == '\0') continue;
    out += fmt::format("    --{}) ", option.name);
    if (option.completes == Completes::words)
      out += fmt::format("mapfile -t COMPREPLY < <(compgen -W {} -- \"$word\"); ",
                         shell_quoted(join(option.words, " ")));
    else if (option.completes != Completes::nothing)
      out += fmt::format("mapfile -t COMPREPLY < <(compgen {} -- \"$word\"); ",
                         bash_action(option.completes));
    out += "return ;;\n";
  }
  out += "  esac\n  case ${COMP_WORDS[1]} in\n";
  for (const Command& command : commands())
    out +=
        fmt::format("    {}) options={} words={} action={} ;;\n", command.name,
                    shell_quoted(option_names(command)), shell_quoted(join(words_of(command), " ")),
                    shell_quoted(bash_action(command.completes)));
  return out +
         "  esac\n"
         "  if [[ $word == -* ]]; then\n"
         "    mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$word\")\n"
         "  elif [[ -n $words ]]; then\n"
         "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n"
         "  elif [[ -n $action ]]; then\n"
         "    mapfile -t COMPREPLY < <(compgen \"$action\" -- \"$word\")\n"
         "  fi\n"
         "}\n"
         "complete -o filenames -F _orrery orrery\n";
}

// Text inside an _arguments specification, where [ ] : and backslashes mean something.
std::string zsh_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_action(Completes completes, const std::vector<std::string>& words) {
  switch (completes) {
    case Completes::files:
      return "_files";
    case Completes::folders:
      return "_files -/";
    case Completes::words:
      return "(" + join(words, " ") + ")";
    case Completes::nothing:
      break;
  }
  return " ";
}

std::string zsh() {
  std::string out =
      "#compdef orrery\n"
      "# zsh completion for orrery, made by `orrery completion zsh`\n"
      "_orrery() {\n"
      "  local -a commands\n"
      "  commands=(\n";
  for (const Command& command : commands())
    out += fmt::format("    {}\n", shell_quoted(std::string(command.name) + ":" + command.summary));
  out +=
      "  )\n"
      "  if (( CURRENT == 2 )); then\n"
      "    _describe command commands\n"
      "    return\n"
      "  fi\n"
      "  shift words\n"
      "  (( CURRENT-- ))\n"
      "  case $words[1] in\n";
  for (const Command& command : commands()) {
    out += fmt::format("    {})\n      _arguments", command.name);
    for (const Option* option : options_of(command)) {
      std::string spec = fmt::format("--{}[{}]", option->name, zsh_text(option->doc));
      if (std::string(option->name) == "set") spec = "*" + spec;
      if (*option->value != '\0')
        spec += fmt::format(":{}:{}", option->value, zsh_action(option->completes, option->words));
      out += " \\\n        " + shell_quoted(spec);
    }
    if (command.takes_positional())
      out += " \\\n        " +
             shell_quoted(fmt::format("{}:{}:{}", command.takes_several() ? "*" : "1",
                                      zsh_text(command.positional),
                                      zsh_action(command.completes, words_of(command))));
    out += "\n      ;;\n";
  }
  return out +
         "  esac\n"
         "}\n"
         "if [[ $funcstack[1] == _orrery ]]; then _orrery \"$@\"; else "
         "compdef _orrery orrery; fi\n";
}

// In fish's single quotes, backslashes and quotes are escaped.
std::string fish_quoted(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return "'" + out + "'";
}

std::string fish() {
  std::string out =
      "# fish completion for orrery, made by `orrery completion fish`\n"
      "complete -c orrery -f\n";
  for (const Command& command : commands())
    out += fmt::format("complete -c orrery -n __fish_use_subcommand -a {} -d {}\n", command.name,
                       fish_quoted(command.summary));
  for (const Command& command : commands()) {
    const std::string when =
        fmt::format("complete -c orrery -n '__fish_seen_subcommand_from {}'", command.name);
    if (command.completes == Completes::files) out += when + " -F\n";
    if (command.completes == Completes::words)
      out += fmt::format("{} -a {}\n", when, fish_quoted(join(words_of(command), " ")));
    for (const Option* option : options_of(command)) {
      out += fmt::format("{} -l {} -d {}", when, option->name, fish_quoted(option->doc));
      if (option->completes == Completes::words)
        out += " -x -a " + fish_quoted(join(option->words, " "));
      else if (option->completes != Completes::nothing)
        out += " -r -F";
      else if (*option->value != '\0')
        out += " -x";
      out += "\n";
    }
  }
  return out;
}

}  // namespace

std::vector<std::string> shells() { return {"bash", "zsh", "fish"}; }

std::string completion_script(const std::string& of) {
  if (of == "bash") return bash();
  if (of == "zsh") return zsh();
  if (of == "fish") return fish();
  const std::string hint = did_you_mean(of, shells());
  throw Error(Category::usage,
              fmt::format("no completions for '{}'; {}", of,
                          hint.empty() ? "there are " + join(shells(), ", ") : hint));
}

int completion(const Arguments& arguments) {
  fmt::print("{}", completion_script(arguments.positional.front()));
  return 0;
}

}  // namespace orrery::cli
