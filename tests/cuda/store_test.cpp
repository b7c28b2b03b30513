// The store between processes, and what the others do when one is killed.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <future>
#include <mutex>
#include <thread>

#include "backend/cuda/processes.hpp"
#include "tests/cpu/cpu_world.hpp"
#include "tests/cuda/double_world.hpp"

namespace orrery {
namespace {

using transport::Bootstrap;
using transport::StoreServer;
using transport::TcpStore;

Bootstrap process(int rank, int of, const StoreServer& server) {
  return {rank, of, "127.0.0.1", server.port(), rank};
}

std::string await(TcpStore& store, const std::string& key) {
  while (true) {
    if (const auto value = store.find(key)) return *value;
    std::this_thread::yield();
  }
}

struct Environment {
  explicit Environment(const std::vector<std::pair<const char*, const char*>>& variables) {
    for (const char* name : {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"})
      unsetenv(name);
    for (const auto& [name, value] : variables) setenv(name, value, 1);
  }
};

// A process of its own. `body` gets the writing end of a pipe; what it says is read by `next`.
class Child {
 public:
  explicit Child(const std::function<void(const std::function<void(const std::string&)>&)>& body) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    pid_ = fork();
    if (pid_ == 0) {
      close(ends[0]);
      alarm(300);  // it must not outlive a test that fails
      body([&](const std::string& line) {
        const std::string text = line + "\n";
        if (write(ends[1], text.data(), text.size()) < 0) _exit(3);
      });
      _exit(0);
    }
    close(ends[1]);
    from_ = ends[0];
  }
  ~Child() { close(from_); }
  // The next line; empty at the end.
  std::string next() const {
    std::string line;
    for (char c = 0; read(from_, &c, 1) == 1 && c != '\n';) line.push_back(c);
    return line;
  }
  void kill() const { ::kill(pid_, SIGKILL); }
  bool ended_by_itself() const {
    int status = 0;
    waitpid(pid_, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

 private:
  pid_t pid_ = -1;
  int from_ = -1;
};

// One rank of three, in an all-reduce that the others never come to.
void wait_for_the_others(int rank, int port, const std::function<void(const std::string&)>& say) {
  cuda_double::expect_absent_members(1);  // the operation that warms the channel
  cuda::Processes processes({rank, 3, "127.0.0.1", port, rank}, Seconds(300));
  if (rank == 0) say(std::to_string(processes.port()));
  cuda::CudaOptions options = on_the_double();
  options.transport = [&](int mine, transport::Waiting waiting) {
    return transport::make_nccl_transport(mine, processes.store(), std::move(waiting));
  };
  options.first_rank = rank;
  options.ranks_here = 1;
  options.peers = &processes;
  const auto error = error_of([&] {
    run_on_double(
        options_for(Axis::replicate, 3),
        [&](Rank& program) {
          Channel& channel = program.channel(Axis::replicate, "gradients");
          Stream& comm = program.stream("comm");
          const Event end = comm.all_reduce(make(program, comm, 8), Reduce::sum, channel);
          if (rank == 0) program.control_send(1, 5, {42});
          if (rank == 1) say(std::to_string(program.control_receive(5, 0)->values[0]));
          say("waiting");
          program.wait(end);
        },
        options);
  });
  say(error ? error->message() : "no error");
}

}  // namespace

TEST_CASE("when a process is killed the others end within ten seconds, by an error that names it") {
  std::vector<std::unique_ptr<Child>> children;
  int port = 0;
  for (int rank = 0; rank < 3; ++rank) {
    children.push_back(
        std::make_unique<Child>([&](const auto& say) { wait_for_the_others(rank, port, say); }));
    if (rank == 0) port = std::stoi(children[0]->next());
  }
  CHECK(children[1]->next() == "42");  // a message went from process to process
  for (const auto& child : children) REQUIRE(child->next() == "waiting");
  const auto killed = std::chrono::steady_clock::now();
  children[2]->kill();
  for (const int rank : {0, 1}) {
    CHECK(children[static_cast<std::size_t>(rank)]->next().starts_with("rank 2 has gone"));
    CHECK(children[static_cast<std::size_t>(rank)]->ended_by_itself());
  }
  CHECK(std::chrono::steady_clock::now() - killed < std::chrono::seconds(10));
  CHECK_FALSE(children[2]->ended_by_itself());
}

TEST_CASE("a value that one process sets comes to all, also to one that connects later") {
  const StoreServer server(0);
  TcpStore zero(process(0, 3, server), Seconds(300)), one(process(1, 3, server), Seconds(300));
  one.set("key", std::string("a\0b", 3));
  CHECK(await(zero, "key") == std::string("a\0b", 3));
  TcpStore two(process(2, 3, server), Seconds(300));
  CHECK(await(two, "key") == std::string("a\0b", 3));
  CHECK_FALSE(two.find("other"));
  for (TcpStore* store : {&zero, &one, &two}) store->goodbye();
}

TEST_CASE("a message to a process that is not there yet waits for it") {
  const StoreServer server(0);
  TcpStore zero(process(0, 2, server), Seconds(300));
  zero.send(1, "early");
  zero.set("sent", "");  // behind the message, to the same server
  TcpStore watcher(process(2, 3, server), Seconds(300));
  await(watcher, "sent");
  std::mutex mutex;
  std::condition_variable came;
  std::string got;
  TcpStore one(process(1, 2, server), Seconds(300), [&](const std::string& bytes) {
    const std::lock_guard lock(mutex);
    got = bytes;
    came.notify_all();
  });
  std::unique_lock lock(mutex);
  came.wait(lock, [&] { return !got.empty(); });
  CHECK(got == "early");
}

TEST_CASE("a message that came early comes before the news that its sender has ended") {
  const StoreServer server(0);
  {
    TcpStore zero(process(0, 2, server), Seconds(300));
    zero.send(1, "early");
    zero.goodbye();
  }
  std::promise<void> server_knows;
  TcpStore watcher(process(2, 2, server), Seconds(300), {}, {}, [&] { server_knows.set_value(); });
  server_knows.get_future().wait();
  std::mutex mutex;
  std::vector<std::string> told;
  std::promise<void> ended;
  TcpStore one(
      process(1, 2, server), Seconds(300),
      [&](const std::string& bytes) {
        const std::lock_guard lock(mutex);
        told.push_back(bytes);
      },
      {},
      [&] {
        const std::lock_guard lock(mutex);
        told.push_back("the end");
        ended.set_value();
      });
  ended.get_future().wait();
  for (TcpStore* store : {&watcher, &one}) store->goodbye();
  const std::lock_guard lock(mutex);
  CHECK(told == std::vector<std::string>{"early", "the end"});
}

TEST_CASE("a message comes to the process it is for") {
  std::mutex mutex;
  std::condition_variable came;
  std::string got;
  const StoreServer server(0);
  TcpStore zero(process(0, 2, server), Seconds(300));
  TcpStore one(process(1, 2, server), Seconds(300), [&](const std::string& bytes) {
    const std::lock_guard lock(mutex);
    got = bytes;
    came.notify_all();
  });
  one.set("ready", "");
  await(zero, "ready");
  zero.send(1, "hello");
  std::unique_lock lock(mutex);
  came.wait(lock, [&] { return !got.empty(); });
  CHECK(got == "hello");
}

TEST_CASE("a process that ends without goodbye is lost to the others, by name; with it, not") {
  std::mutex mutex;
  std::condition_variable came;
  std::vector<std::string> lost;
  const StoreServer server(0);
  TcpStore zero(process(0, 3, server), Seconds(300), {}, [&](std::exception_ptr failure) {
    const std::lock_guard lock(mutex);
    lost.push_back(error_of([&] { std::rethrow_exception(failure); })->message());
    came.notify_all();
  });
  {
    TcpStore leaves(process(1, 3, server), Seconds(300));
    leaves.set("1", "");
    await(zero, "1");
    leaves.goodbye();
  }
  {
    TcpStore dies(process(2, 3, server), Seconds(300));
    dies.set("2", "");
    await(zero, "2");
  }
  std::unique_lock lock(mutex);
  came.wait(lock, [&] { return !lost.empty(); });
  REQUIRE(lost.size() == 1);
  CHECK(lost[0].starts_with("rank 2 has gone"));
  zero.goodbye();
}

TEST_CASE("a process that was lost is told to those that connect later") {
  const StoreServer server(0);
  TcpStore zero(process(0, 3, server), Seconds(300));
  {
    TcpStore dies(process(1, 3, server), Seconds(300));
    dies.set("1", "");
    await(zero, "1");
  }
  while (!zero.failure()) std::this_thread::yield();
  TcpStore late(process(2, 3, server), Seconds(300));
  const auto error = error_of([&] { await(late, "what rank 1 would have set"); });
  REQUIRE(error);
  CHECK(error->message().starts_with("rank 1 has gone"));
  for (TcpStore* store : {&zero, &late}) store->goodbye();
}

TEST_CASE("a process learns when all others have ended, also when it connects later") {
  const StoreServer server(0);
  std::promise<void> zero_alone, one_alone;
  TcpStore zero(process(0, 3, server), Seconds(300), {}, {}, [&] { zero_alone.set_value(); });
  {
    TcpStore two(process(2, 3, server), Seconds(300));
    two.goodbye();
  }
  {
    TcpStore one(process(1, 3, server), Seconds(300), {}, {}, [&] { one_alone.set_value(); });
    zero.goodbye();
    one_alone.get_future().wait();
    one.goodbye();
  }
  zero_alone.get_future().wait();
}

TEST_CASE("who a process is comes from the environment, and what is wrong with it is named") {
  {
    const Environment none({});
    CHECK_FALSE(transport::bootstrap_from_environment());
  }
  {
    const Environment all(
        {{"RANK", "3"}, {"WORLD_SIZE", "8"}, {"MASTER_ADDR", "10.0.0.1"}, {"MASTER_PORT", "1234"}});
    const auto b = transport::bootstrap_from_environment();
    REQUIRE(b);
    CHECK(b->rank == 3);
    CHECK(b->processes == 8);
    CHECK(b->address == "10.0.0.1");
    CHECK(b->port == 1234);
    CHECK(b->local_rank == 3);
  }
  const auto wrong = [](const std::vector<std::pair<const char*, const char*>>& variables) {
    const Environment environment(variables);
    return error_of([] { transport::bootstrap_from_environment(); });
  };
  CHECK(wrong({{"RANK", "0"}})->message() == "WORLD_SIZE is not set, though RANK is");
  CHECK(wrong({{"RANK", "x"}, {"WORLD_SIZE", "2"}})->message() == "RANK is not a number: x");
  CHECK(wrong({{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "1"}})->category() ==
        Category::usage);
  const Environment none({});
}

}  // namespace orrery
