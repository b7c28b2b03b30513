// The command table: from it come dispatch, help, the man page and completions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/core/progress.hpp"

namespace orrery::cli {

// What a command line says, after parsing. Few flags: everything else is reached by --set.
struct Arguments {
  std::string command;
  std::vector<std::string> positional;
  std::vector<std::string> set;   // path=value
  std::vector<std::string> over;  // of `sweep`: path=value,value,…
  std::string world = "cpu";      // of `run` and `calibrate`
  std::string out;     // folder for result files; of `calibrate`, `convert` the file to write
  std::string ranks;   // of `calibrate`; empty: 2, or all GPUs
  std::string budget;  // of `calibrate`, in seconds; empty: as its options have it
  std::string checkpoint, resume;     // of `run`
  std::int64_t checkpoint_every = 0;  // steps; 0: at the end only
  std::int64_t repeats = 3;           // of `validate`
  std::optional<double> target_loss;  // of `race`
  std::string scenario;               // of `race`
  std::optional<double> tolerance;    // of `validate`: a fraction
  std::int64_t jobs = 0;              // of `sweep`; 0: as many as there are cores
  bool profile = false;               // of `run` and `validate`, with --world cuda
  std::string page;                   // of `validate` and `compare`: the file to write
  std::string part;                   // of `sweep`: I/N, or empty
  std::string seed;                   // digits, or empty
  std::string to, node;               // of `convert`
  std::int64_t gpus = 0;              // of `convert`; 0: all
  bool json = false, quiet = false, trace = false, quick = false, help = false, man = false;
  ColorMode color = ColorMode::automatic;
};

// What may stand in a place of the command line, for completion.
enum class Completes { nothing, files, folders, words };

struct Option {
  const char* name;
  const char* value;  // "" for a switch
  const char* doc;
  Completes completes = Completes::nothing;
  std::vector<std::string> words = {};  // for Completes::words
};

struct Command {
  const char* name;
  const char* positional;  // "SCENARIO"; "[NAME]" may be left out; "FILE..." takes several; "" none
  const char* summary;
  const char* description;
  const char* example;
  std::vector<const char*> options;  // names of the options it takes beside the common ones
  int (*run)(const Arguments&);      // returns the exit code; throws Error
  Completes completes = Completes::nothing;
  std::vector<std::string> (*words)() = nullptr;  // for Completes::words

  bool takes_positional() const { return *positional != '\0'; }
  bool needs_positional() const { return takes_positional() && *positional != '['; }
  bool takes_several() const {
    return std::string_view(positional).find("...") != std::string_view::npos;
  }
};

const std::vector<Command>& commands();
const Command* find_command(const std::string& name);
std::vector<std::string> command_names();

const std::vector<Option>& options();
// Those that the command takes, the common ones last.
std::vector<const Option*> options_of(const Command& command);

struct ExitCode {
  int code;
  const char* meaning;
};
const std::vector<ExitCode>& exit_codes();

// Parses argv. Error{usage} with a suggestion for what is not known.
Arguments parse_arguments(int argc, const char* const* argv);
std::string help_text();  // of the program
std::string help_text(const Command& command);
std::string manual_page();  // in roff, for man(1)
std::string completion_script(
    const std::string& of);  // shell: bash, zsh or fish; else Error{usage}
std::vector<std::string> shells();

// The whole program: parses, runs, prints errors. Returns the exit code.
int main_program(int argc, const char* const* argv);

int simulate(const Arguments& arguments);
int run(const Arguments& arguments);
int calibrate(const Arguments& arguments);
int validate(const Arguments& arguments);
int check(const Arguments& arguments);
int memory(const Arguments& arguments);
int trace(const Arguments& arguments);
int sweep(const Arguments& arguments);
int scoreboard(const Arguments& arguments);
int compare(const Arguments& arguments);
int race(const Arguments& arguments);
int list(const Arguments& arguments);
int explain(const Arguments& arguments);
int convert(const Arguments& arguments);
int schema(const Arguments& arguments);
int doctor(const Arguments& arguments);
int completion(const Arguments& arguments);
int help(const Arguments& arguments);

std::vector<std::string> list_kinds();      // what `list` knows
std::vector<std::string> explain_topics();  // what `explain` knows, sorted

}  // namespace orrery::cli
