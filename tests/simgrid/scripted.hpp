// What the tests of the engine share: a client made of functions, and runs in child processes.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <string>

#include "backend/core/error.hpp"
#include "sim/simgrid/engine.hpp"

namespace orrery::sim {

struct Scripted : EngineClient {
  std::function<void(Time, const Key&, std::uint64_t)> on_due = [](Time, const Key&,
                                                                   std::uint64_t) {};
  std::function<void()> on_stuck = [] { throw Error(Category::deadlock, "stuck"); };
  void due(Time now, const Key& key, std::uint64_t payload) override { on_due(now, key, payload); }
  void stuck() override { on_stuck(); }
};

// Runs `body` in a child process and returns the string it made; "" if the child died.
inline std::string in_child(const std::function<std::string()>& body) {
  int ends[2];
  if (pipe(ends) != 0) return "";
  const pid_t child = fork();
  if (child == 0) {
    const std::string text = body();
    const bool written =
        write(ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size());
    _exit(written ? 0 : 1);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 1;
  waitpid(child, &status, 0);
  return status == 0 ? text : "";
}

// FNV-1a, for fingerprints of an order of events.
struct Fingerprint {
  std::uint64_t value = 14695981039346656037u;
  void add(std::uint64_t x) {
    for (int i = 0; i < 8; ++i, x >>= 8) value = (value ^ (x & 0xff)) * 1099511628211u;
  }
};

// A small counter-based generator, so that tests do not depend on a library's distributions.
inline std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace orrery::sim
