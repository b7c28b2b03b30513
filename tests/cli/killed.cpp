#include "tests/cli/killed.hpp"

#include <doctest/doctest.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <memory>

namespace orrery {

namespace {

// What happens to the files of a folder, one thing after the other.
class FolderEvents {
 public:
  explicit FolderEvents(const std::string& folder) : from_(inotify_init1(IN_CLOEXEC)) {
    REQUIRE(inotify_add_watch(from_, folder.c_str(),
                              IN_CREATE | IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_TO) >= 0);
  }
  ~FolderEvents() { close(from_); }
  FolderEvents(const FolderEvents&) = delete;
  FolderEvents& operator=(const FolderEvents&) = delete;

  // Waits for at least one; how many there were. None when the process has ended before.
  int wait(int process) {
    std::array<pollfd, 2> ends{pollfd{from_, POLLIN, 0}, pollfd{process, POLLIN, 0}};
    while (poll(ends.data(), ends.size(), -1) < 0) continue;
    if (ends[0].revents == 0) return 0;
    std::array<char, 4096> buffer{};
    const ssize_t n = read(from_, buffer.data(), buffer.size());
    int events = 0;
    for (ssize_t at = 0; at < n; ++events)
      at += static_cast<ssize_t>(sizeof(inotify_event)) +
            reinterpret_cast<const inotify_event*>(buffer.data() + at)->len;
    return events;
  }

 private:
  int from_;
};

}  // namespace

std::function<void(pid_t)> kill_after(const std::string& folder, unsigned events, unsigned spins) {
  const auto seen = std::make_shared<FolderEvents>(folder);
  return [seen, events, spins](pid_t child) {
    const int process = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
    REQUIRE(process >= 0);
    unsigned count = 0;
    for (int more = 1; count < events && more > 0; count += static_cast<unsigned>(more))
      more = seen->wait(process);
    close(process);
    for (volatile unsigned spin = 0; spin < spins;) spin = spin + 1;
    kill(child, SIGKILL);
  };
}

}  // namespace orrery
