// The program from its start to its exit code.
#include <fmt/core.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "backend/core/error.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/interrupt.hpp"
#include "scenarios/cli/result.hpp"
#include "scenarios/cli/version.hpp"

namespace orrery::cli {

namespace {

int carry_out(int argc, const char* const* argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--version") {
    fmt::print("orrery {}\n", version());
    return 0;
  }
  const Arguments arguments = parse_arguments(argc, argv);
  const Command& command = *find_command(arguments.command);
  if (!arguments.help) return command.run(arguments);
  fmt::print("{}", help_text(command));
  return 0;
}

int report(const std::exception& error, bool json) {
  const auto* known = dynamic_cast<const Error*>(&error);
  const Category category = known != nullptr ? known->category() : Category::internal;
  if (json) {
    std::fputs(error_json(error).c_str(), stdout);
    std::fflush(stdout);
  }
  const std::string text = error.what();
  const bool labelled = text.starts_with("error[");
  fmt::print(stderr, "{}{}{}", labelled ? "" : fmt::format("error[{}]: ", name(category)), text,
             text.ends_with('\n') ? "" : "\n");
  if (category == Category::usage) fmt::print(stderr, "`orrery --help` lists the commands\n");
  return exit_code(category);
}

}  // namespace

int main_program(int argc, const char* const* argv) {
  bool json = false;
  for (int i = 1; i < argc; ++i) json = json || std::string_view(argv[i]) == "--json";
  prepare_process(json);
  try {
    const int code = carry_out(argc, argv);
    if (std::fflush(stdout) != 0)
      throw Error(Category::internal,
                  std::string("cannot write to standard output: ") + std::strerror(errno));
    return code;
  } catch (const std::exception& error) {
    return report(error, json);
  }
}

}  // namespace orrery::cli
