// Fuzzes the readers of what a run leaves behind: the input is taken as the text of a decision log
// and as the inside of a checkpoint file, to which a checksum that fits is added (or none fuzzing
// would get past it). Whatever the input, reading gives a value that survives being written and
// read again, or an Error{config} that names the file.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "backend/checkpoint.hpp"
#include "backend/core/sha256.hpp"
#include "backend/core/text.hpp"
#include "backend/decisions.hpp"

using namespace orrery;

namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "broken invariant: %s\n", what);
  std::abort();
}

// Needs a valid log with a result that no seed has, behind a flow that none has either.
void planted([[maybe_unused]] const std::vector<DecisionLog>& logs) {
#ifdef ORRERY_FUZZ_PLANTED
  for (const DecisionLog& log : logs)
    for (const Decision& decision : log.decisions)
      if (decision.flow == 2 && decision.result > 3) std::abort();
#endif
}

void run_decisions(const std::string& text) {
  // A header may announce millions of ranks: valid, but slow.
  if (text.find_first_of('\n') > 24) return;
  try {
    const std::vector<DecisionLog> logs = decisions_from_text(text, "input");
    planted(logs);
    const std::string written = to_text(logs);
    const std::vector<DecisionLog> again = decisions_from_text(written, "again");
    require(again.size() == logs.size(), "another number of ranks");
    for (std::size_t i = 0; i < logs.size(); ++i)
      require(again[i].decisions == logs[i].decisions, "a log that reads back differently");
  } catch (const Error& error) {
    require(error.category() == Category::config, "an error of another category");
    require(error.context("file") == "input", "a log that was written and does not read back");
    require(!error.context("line").empty(), "an error without a line");
  }
}

void run_checkpoints(const std::string& body) {
  static const std::string path = (std::filesystem::temp_directory_path() /
                                   ("orrery_decisions_fuzz_" + std::to_string(::getpid())))
                                      .string();
  std::ofstream(path, std::ios::binary) << body << sha256_hex(body);
  try {
    const std::vector<Checkpoint> ranks = read_checkpoints(path);
    write_checkpoints(path, ranks);
    require(read_checkpoints(path) == ranks, "checkpoints that read back differently");
  } catch (const Error& error) {
    require(error.category() == Category::config, "an error of another category");
    require(error.context("file") == path, "an error that does not name the file");
  }
  std::filesystem::remove(path);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  run_decisions(input);
  run_checkpoints(input);
  return 0;
}
