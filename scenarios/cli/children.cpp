#include "scenarios/cli/children.hpp"

#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace orrery::cli {

namespace {

// The first byte of what a child sends; after `threw` comes the category.
constexpr char returned = 'r', threw = 'e';

struct Child {
  std::size_t work = 0;
  pid_t process = 0;
  int from = -1;  // its end of the pipe, to read
  std::string text;
};

void write_all(int to, const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t n = write(to, text.data() + at, text.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) _exit(exit_code(Category::internal));
    at += static_cast<std::size_t>(n);
  }
}

[[noreturn]] void be_child(const Work& work, pid_t parent, int to) {
  // An interrupt is the parent's to report; it ends the child without a word.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, SIG_DFL);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(exit_code(Category::internal));  // it ended before that was said
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
  _exit(0);  // without unwinding what belongs to the parent
}

Child start(const Work& work, std::size_t index) {
  int ends[2];
  if (pipe(ends) != 0)
    throw Error(Category::internal, std::string("no pipe: ") + std::strerror(errno));
  std::fflush(nullptr);
  const pid_t parent = getpid();
  const pid_t process = fork();
  if (process < 0) {
    const int why = errno;
    close(ends[0]);
    close(ends[1]);
    throw Error(Category::internal, std::string("no child process: ") + std::strerror(why));
  }
  if (process == 0) {
    close(ends[0]);
    be_child(work, parent, ends[1]);
  }
  close(ends[1]);
  return {index, process, ends[0], {}};
}

ChildResult finish(Child& child) {
  close(child.from);
  int status = 0;
  while (waitpid(child.process, &status, 0) < 0 && errno == EINTR) {
  }
  const std::string& text = child.text;
  if (WIFSIGNALED(status))
    return {"", "its process was ended by signal " + std::to_string(WTERMSIG(status))};
  if (text.empty()) return {"", "its process ended without a word"};
  if (text[0] == threw) return {"", text.substr(2), static_cast<Category>(text.at(1))};
  return {text.substr(1), ""};
}

// Waits until a child says something; true when that was its last word.
bool listen(Child& child) {
  std::array<char, 65536> buffer;
  const ssize_t n = ::read(child.from, buffer.data(), buffer.size());
  if (n > 0) child.text.append(buffer.data(), static_cast<std::size_t>(n));
  return n == 0 || (n < 0 && errno != EINTR);
}

}  // namespace

void run_in_children(const std::vector<Work>& work, std::size_t at_once,
                     const std::function<void(std::size_t, ChildResult)>& ended) {
  std::vector<Child> running;
  std::size_t next = 0;
  while (next < work.size() || !running.empty()) {
    while (next < work.size() && running.size() < std::max<std::size_t>(at_once, 1)) {
      running.push_back(start(work[next], next));
      ++next;
    }
    std::vector<pollfd> ends;
    for (const Child& child : running) ends.push_back({child.from, POLLIN, 0});
    if (poll(ends.data(), ends.size(), -1) < 0 && errno != EINTR)
      throw Error(Category::internal, std::string("poll: ") + std::strerror(errno));
    for (std::size_t i = running.size(); i-- > 0;) {
      if (ends[i].revents == 0 || !listen(running[i])) continue;
      const std::size_t index = running[i].work;
      ChildResult result = finish(running[i]);
      running.erase(running.begin() + static_cast<std::ptrdiff_t>(i));
      ended(index, std::move(result));
    }
  }
}

std::string in_child(const Work& work) {
  ChildResult only;
  run_in_children({work}, 1,
                  [&only](std::size_t, ChildResult result) { only = std::move(result); });
  if (!only.error.empty()) throw Error(only.category, only.error);
  return std::move(only.text);
}

std::size_t usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return static_cast<std::size_t>(std::max(CPU_COUNT(&set), 1));
}

}  // namespace orrery::cli
