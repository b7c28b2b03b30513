// What the benchmarks share that hold a simulation of this machine against runs on it.
#pragma once

#include <fmt/core.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

namespace orrery::bench {

inline std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

// Runs orrery; its stdout. Throws when it fails.
inline std::string run_orrery(const std::vector<std::string>& arguments) {
  std::string command = quoted(ORRERY_PROGRAM);
  for (const std::string& argument : arguments) command += " " + quoted(argument);
  std::FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot run " + command);
  std::string text;
  char buffer[65536];
  for (std::size_t n = 0; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    text.append(buffer, n);
  const int status = pclose(pipe);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw std::runtime_error("failed: " + command);
  return text;
}

// The platform file of this machine, measured now with so many ranks at once.
inline std::string calibrated(const std::string& bench, int round, int ranks) {
  const std::filesystem::path results = ORRERY_SOURCE_DIR "/results/bench";
  std::filesystem::create_directories(results);
  const std::string file = (results / fmt::format("{}-platform-{}.yaml", bench, round)).string();
  std::fprintf(stderr, "calibrating (minutes): %s\n", file.c_str());
  run_orrery({"calibrate", "--world", "cpu", "--ranks", std::to_string(ranks), "--out", file});
  return file;
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

}  // namespace orrery::bench
