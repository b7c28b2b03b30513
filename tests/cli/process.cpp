#include "tests/cli/process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace orrery {

namespace {

struct Pipe {
  int ends[2] = {-1, -1};
  Pipe() { REQUIRE(pipe2(ends, O_CLOEXEC) == 0); }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  void close_end(int which) {
    if (ends[which] >= 0) close(ends[which]);
    ends[which] = -1;
  }
};

[[noreturn]] void become(const std::vector<std::string>& command, const ProcessOptions& options,
                         int out, int err) {
  // A test under `nohup` or in the background of a shell ignores signals; its program shall not.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) std::signal(signal, SIG_DFL);
  if (chdir(options.folder.c_str()) != 0) _exit(127);
  for (const char* name : {"NO_COLOR", "CLICOLOR_FORCE"}) unsetenv(name);
  for (const auto& [name, value] : options.environment) setenv(name.c_str(), value.c_str(), 1);
  const int nothing = open("/dev/null", O_RDONLY);
  dup2(nothing, 0);
  dup2(out, 1);
  dup2(err, 2);
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  _exit(127);
}

// Reads both pipes to their ends; the program may fill either first.
void read_all(Pipe& out, Pipe& err, Finished& finished) {
  std::array<pollfd, 2> ends{pollfd{out.ends[0], POLLIN, 0}, pollfd{err.ends[0], POLLIN, 0}};
  std::array<std::string*, 2> texts{&finished.out, &finished.err};
  std::array<char, 65536> buffer{};
  while (ends[0].fd >= 0 || ends[1].fd >= 0) {
    if (poll(ends.data(), ends.size(), -1) < 0) continue;
    for (std::size_t i = 0; i < 2; ++i) {
      if (ends[i].fd < 0 || ends[i].revents == 0) continue;
      const ssize_t n = read(ends[i].fd, buffer.data(), buffer.size());
      if (n > 0)
        texts[i]->append(buffer.data(), static_cast<std::size_t>(n));
      else
        ends[i].fd = -1;
    }
  }
}

}  // namespace

Finished run_process(const std::vector<std::string>& command, const ProcessOptions& options) {
  Pipe out, err;
  if (options.stdout_is_closed_pipe) out.close_end(0);
  if (!options.stdout_to.empty()) {
    out.close_end(1);
    out.ends[1] = open(options.stdout_to.c_str(), O_WRONLY | O_CLOEXEC);
    REQUIRE(out.ends[1] >= 0);
    out.close_end(0);
  }
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) become(command, options, out.ends[1], err.ends[1]);
  out.close_end(1);
  err.close_end(1);
  if (options.while_it_runs) options.while_it_runs(child);
  Finished finished;
  read_all(out, err, finished);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status))
    finished.signal = WTERMSIG(status);
  else
    finished.exit = WEXITSTATUS(status);
  return finished;
}

Finished orrery_with(std::vector<std::string> arguments, const ProcessOptions& options) {
  arguments.insert(arguments.begin(), ORRERY_PROGRAM);
  return run_process(arguments, options);
}

TemporaryFolder::TemporaryFolder()
    : path_((std::filesystem::temp_directory_path() / "orrery_cli_XXXXXX").string()) {
  REQUIRE(mkdtemp(path_.data()) != nullptr);
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::vector<std::string> TemporaryFolder::names() const {
  std::vector<std::string> all;
  for (const auto& entry : std::filesystem::directory_iterator(path_))
    all.push_back(entry.path().filename().string());
  std::sort(all.begin(), all.end());
  return all;
}

std::string text_of_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in, "cannot read " << path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace orrery
