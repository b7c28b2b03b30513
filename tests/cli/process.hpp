// Runs the built program as a process of its own, as a user does, and brings back what it said.
#pragma once

#include <doctest/doctest.h>
#include <sys/types.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace orrery {

struct Finished {
  int exit = -1;   // its exit code; -1 when a signal ended it
  int signal = 0;  // that ended it; 0 when none did
  std::string out, err;

  // The one JSON value on stdout; the test fails when there is anything else.
  template <class Json>
  Json json() const {
    auto parsed = Json::parse(out, nullptr, false);
    REQUIRE_MESSAGE(!parsed.is_discarded(), "not JSON on stdout: " << out << err);
    return parsed;
  }
};

struct ProcessOptions {
  std::string folder = ORRERY_SOURCE_DIR;          // where it runs
  std::map<std::string, std::string> environment;  // beside ours, without NO_COLOR and its kind
  bool stdout_is_closed_pipe = false;
  std::string stdout_to;                     // a file in place of the pipe
  std::function<void(pid_t)> while_it_runs;  // e.g. sends a signal
};

Finished run_process(const std::vector<std::string>& command, const ProcessOptions& options = {});
// The program `orrery` with these arguments.
Finished orrery_with(std::vector<std::string> arguments, const ProcessOptions& options = {});

// The result that the program prints; it must have ended well.
template <class Json>
Json result_of(const std::vector<std::string>& arguments) {
  const Finished done = orrery_with(arguments);
  REQUIRE_MESSAGE(done.exit == 0, done.err << done.out);
  return done.json<Json>();
}

// A fresh folder that is removed with its contents at the end of the test.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::vector<std::string> names() const;  // of what is in it, sorted

 private:
  std::string path_;
};

std::string text_of_file(const std::string& path);
bool contains(const std::string& text, const std::string& part);

inline const std::string quickstart = "scenarios/quickstart.yaml";

}  // namespace orrery
