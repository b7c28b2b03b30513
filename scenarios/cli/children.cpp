#include "scenarios/cli/children.hpp"

#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "backend/core/error.hpp"
#include "scenarios/published/not_scored.hpp"

namespace orrery::cli {

namespace {

constexpr int failed = 3;  // exit code of a child whose text is an error

struct Child {
  std::size_t work = 0;
  pid_t process = 0;
  int from = -1;  // its end of the pipe, to read
  std::string text;
};

[[noreturn]] void work_as_child(const std::function<std::string()>& work, pid_t parent, int to) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, SIG_DFL);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(failed);  // it ended before that was said
  std::string text;
  int status = 0;
  try {
    text = work();
  } catch (const std::exception& error) {
    text = one_sentence(error);
    status = failed;
  }
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t n = write(to, text.data() + at, text.size() - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) _exit(failed);
    at += static_cast<std::size_t>(n);
  }
  _exit(status);  // without unwinding what belongs to the parent
}

Child start(const std::vector<std::function<std::string()>>& work, std::size_t index) {
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
    work_as_child(work[index], parent, ends[1]);
  }
  close(ends[1]);
  return {index, process, ends[0], {}};
}

ChildResult finish(Child& child) {
  close(child.from);
  int status = 0;
  while (waitpid(child.process, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFSIGNALED(status))
    return {"", "the simulation was ended by signal " + std::to_string(WTERMSIG(status))};
  if (WEXITSTATUS(status) != 0)
    return {"", child.text.empty() ? "the simulation ended without a word" : child.text};
  return {std::move(child.text), ""};
}

// Waits until a child says something; true when that was its last word.
bool listen(Child& child) {
  char buffer[4096];
  const ssize_t n = read(child.from, buffer, sizeof buffer);
  if (n > 0) child.text.append(buffer, static_cast<std::size_t>(n));
  return n == 0 || (n < 0 && errno != EINTR);
}

}  // namespace

std::vector<ChildResult> run_in_children(const std::vector<std::function<std::string()>>& work,
                                         std::size_t at_once,
                                         const std::function<void(std::size_t)>& done) {
  std::vector<ChildResult> results(work.size());
  std::vector<Child> running;
  std::size_t next = 0, ended = 0;
  while (ended < work.size()) {
    while (next < work.size() && running.size() < std::max<std::size_t>(at_once, 1))
      running.push_back(start(work, next++));
    std::vector<pollfd> ends;
    for (const Child& child : running) ends.push_back({child.from, POLLIN, 0});
    if (poll(ends.data(), ends.size(), -1) < 0 && errno != EINTR)
      throw Error(Category::internal, std::string("poll: ") + std::strerror(errno));
    for (std::size_t i = running.size(); i-- > 0;) {
      if (ends[i].revents == 0 || !listen(running[i])) continue;
      results[running[i].work] = finish(running[i]);
      running.erase(running.begin() + static_cast<std::ptrdiff_t>(i));
      done(++ended);
    }
  }
  return results;
}

std::size_t usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return static_cast<std::size_t>(std::max(CPU_COUNT(&set), 1));
}

}  // namespace orrery::cli
