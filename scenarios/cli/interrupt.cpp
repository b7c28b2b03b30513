#include "scenarios/cli/interrupt.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <climits>
#include <csignal>
#include <cstring>

#include "backend/core/error.hpp"
#include "scenarios/cli/result.hpp"

namespace orrery::cli {

namespace {

// All that the handler touches: fixed storage and lock-free atomics.
std::array<char, PATH_MAX> temporary_file{};
std::atomic<bool> has_temporary_file{false};
std::array<char, 512> error_object{};
std::size_t error_object_size = 0;
std::atomic<int> held{0};
std::atomic<int> pending{0};

void say(int descriptor, const char* text, std::size_t size) {
  while (size > 0) {
    const ssize_t n = write(descriptor, text, size);
    if (n <= 0) return;
    text += n;
    size -= static_cast<std::size_t>(n);
  }
}

[[noreturn]] void end_by(int signal) {
  if (has_temporary_file) unlink(temporary_file.data());
  if (error_object_size > 0) say(1, error_object.data(), error_object_size);
  constexpr char text[] = "\r\033[Kinterrupted\n";
  // The control sequence removes a progress line, which only a terminal has.
  const std::size_t skip = isatty(2) != 0 ? 0 : 4;
  say(2, text + skip, sizeof text - 1 - skip);
  _exit(128 + signal);
}

void on_signal(int signal) {
  if (held > 0)
    pending = signal;
  else
    end_by(signal);
}

}  // namespace

void prepare_process(bool json) {
  for (int descriptor = 0; descriptor <= 2; ++descriptor)
    if (fcntl(descriptor, F_GETFD) < 0)
      (void)!open("/dev/null", descriptor == 0 ? O_RDONLY : O_WRONLY);
  std::signal(SIGPIPE, SIG_DFL);
  if (json) {
    const std::string text = error_json(Error(Category::interrupted, "interrupted"));
    if (text.size() <= error_object.size()) {
      std::memcpy(error_object.data(), text.data(), text.size());
      error_object_size = text.size();
    }
  }
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action {};
    sigaction(signal, nullptr, &action);
    if (action.sa_handler == SIG_IGN) continue;  // under nohup, or in a shell's background
    action = {};
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    sigaction(signal, &action, nullptr);
  }
}

InterruptGuard::InterruptGuard() { ++held; }

InterruptGuard::~InterruptGuard() {
  if (--held == 0 && pending != 0) end_by(pending);
}

void result_was_printed() { error_object_size = 0; }

void remove_on_interrupt(const std::string& path) {
  has_temporary_file = false;
  if (path.empty() || path.size() >= temporary_file.size()) return;
  std::memcpy(temporary_file.data(), path.c_str(), path.size() + 1);
  has_temporary_file = true;
}

}  // namespace orrery::cli
