#include "scenarios/cli/child.hpp"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "backend/core/error.hpp"
#include "scenarios/cli/interrupt.hpp"

namespace orrery::cli {

namespace {

// The first byte of what a child sends.
constexpr char returned = 'r', threw = 'e';

void write_all(int to, const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t n = write(to, text.data() + at, text.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) _exit(exit_code(Category::internal));
    at += static_cast<std::size_t>(n);
  }
}

std::string read_all(int from) {
  std::string text;
  std::array<char, 65536> buffer{};
  for (;;) {
    const ssize_t n = read(from, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(n));
  }
}

[[noreturn]] void be_child(const std::function<std::string()>& work, int to) {
  // An interrupt is the parent's to report; it ends the child without a word.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, SIG_DFL);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::string message;
  try {
    message = returned + work();
  } catch (const std::exception& error) {
    const auto* known = dynamic_cast<const Error*>(&error);
    const Category category = known != nullptr ? known->category() : Category::internal;
    message = std::string{threw, static_cast<char>(category)} + error.what();
  }
  write_all(to, message);
  std::fflush(stderr);
  _exit(0);
}

}  // namespace

std::string in_child(const std::function<std::string()>& work) {
  int ends[2];
  if (pipe(ends) != 0) throw Error(Category::internal, "cannot open a pipe");
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) throw Error(Category::internal, "cannot start a process");
  if (child == 0) {
    close(ends[0]);
    be_child(work, ends[1]);
  }
  close(ends[1]);
  const std::string message = read_all(ends[0]);
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status))
    throw Error(Category::internal, "the process of this repeat was ended by signal " +
                                        std::to_string(WTERMSIG(status)));
  if (message.empty()) throw Error(Category::internal, "the process of this repeat said nothing");
  if (message[0] == threw) throw Error(static_cast<Category>(message.at(1)), message.substr(2));
  return message.substr(1);
}

ResidentMemory resident_memory() {
  ResidentMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    const auto kib = [&line] {
      return std::strtoll(line.c_str() + line.find(':') + 1, nullptr, 10);
    };
    if (line.starts_with("VmRSS:")) memory.now_bytes = kib() * 1024;
    if (line.starts_with("VmHWM:")) memory.peak_bytes = kib() * 1024;
  }
  return memory;
}

}  // namespace orrery::cli
