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

#include "backend/cuda/gather.hpp"
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
    for (const char* name : {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK",
                             "TORCHELASTIC_USE_AGENT_STORE"})
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
    for (char c = 0; ::read(from_, &c, 1) == 1 && c != '\n';) line.push_back(c);
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

using Say = std::function<void(const std::string&)>;

// What one of three processes is, a rank in each.
Bootstrap one_of_three(int rank, int port) { return {rank, 3, "127.0.0.1", port, rank}; }

// Of rank 0: where the others find it.
void tell_port(const cuda::Processes& processes, const Say& say) {
  if (processes.rank() == 0) say(std::to_string(processes.port()));
}

// The world of its rank, on the double of a GPU.
RunReport run_among(cuda::Processes& processes, const World::Program& program) {
  cuda::CudaOptions options = on_the_double();
  options.transport = [&](int mine, transport::Waiting waiting) {
    return transport::make_nccl_transport(mine, processes.store(), std::move(waiting));
  };
  options.first_rank = processes.rank();
  options.ranks_here = 1;
  options.peers = &processes;
  return run_on_double(options_for(Axis::replicate, processes.count()), program, options);
}

// All three, where the first tells the others its port.
std::vector<std::unique_ptr<Child>> three(
    const std::function<void(int rank, int port, const Say& say)>& body) {
  std::vector<std::unique_ptr<Child>> children;
  int port = 0;
  for (int rank = 0; rank < 3; ++rank) {
    children.push_back(std::make_unique<Child>([&](const Say& say) { body(rank, port, say); }));
    if (rank == 0) port = std::stoi(children[0]->next());
  }
  return children;
}

// One rank of three, in an all-reduce that the others never come to.
void wait_for_the_others(int rank, int port, const Say& say) {
  cuda_double::expect_absent_members(1);  // the operation that warms the channel
  cuda::Processes processes(one_of_three(rank, port));
  tell_port(processes, say);
  const auto error = error_of([&] {
    run_among(processes, [&](Rank& program) {
      Channel& channel = program.channel(Axis::replicate, "gradients");
      Stream& comm = program.stream("comm");
      const Event end = comm.all_reduce(make(program, comm, 8), Reduce::sum, channel);
      if (rank == 0) program.control_send(1, 5, {42});
      if (rank == 1) say(std::to_string(program.control_receive(5, 0)->values[0]));
      say("waiting");
      program.wait(end);
    });
  });
  say(error ? error->message() : "no error");
}

// The same, where rank 2 runs out of memory as soon as the others wait.
void fail_while_others_wait(int rank, int port, const Say& say) {
  cuda_double::expect_absent_members(1);
  cuda::Processes processes(one_of_three(rank, port));
  tell_port(processes, say);
  const auto error = error_of([&] {
    run_among(processes, [&](Rank& program) {
      Channel& channel = program.channel(Axis::replicate, "gradients");
      Stream& comm = program.stream("comm");
      const Event end = comm.all_reduce(make(program, comm, 8), Reduce::sum, channel);
      if (rank < 2) program.control_send(2, 5, {rank});
      if (rank == 2) {
        for (int others = 0; others < 2; ++others) program.control_receive(5);
        throw Error(Category::out_of_memory, "no room for gradients");
      }
      program.wait(end);
    });
  });
  if (!error) return say("no error");
  processes.fail(*error);
  say(std::string(name(error->category())) + ": " + error->message());
}

// An all-reduce and a loss; then each tells how it went, and rank 0 says what it heard.
void tell_the_first(int rank, int port, const Say& say) {
  cuda_double::expect_absent_members(2);
  cuda::Processes processes(one_of_three(rank, port));
  tell_port(processes, say);
  say(processes.said_by_first("seed", std::to_string(7 + rank)));
  RunReport report = run_among(processes, [&](Rank& program) {
    Channel& channel = program.channel(Axis::replicate, "gradients");
    Stream& comm = program.stream("comm");
    const Tensor x = make(program, comm, 300 * (rank + 1));
    program.wait(comm.all_reduce(x.slice(0, 300), Reduce::sum, channel));
    program.record_loss(0, rank + 0.5);
  });
  const auto told = cuda::gather(processes, report, "rank " + std::to_string(rank));
  processes.goodbye();
  say(std::to_string(told.size()) + " told");
  for (std::size_t of = 0; of < told.size(); ++of) {
    const RankReport& its = report.ranks[of];
    say(told[of] + ": " + std::to_string(its.peak.value) + " B, sent " +
        std::to_string(its.channels.at(0).use.bytes.value) + " B, loss " +
        std::to_string(its.losses.at(0)));
  }
}

}  // namespace

TEST_CASE("when a process is killed the others end within ten seconds, by an error that names it") {
  const auto children = three(wait_for_the_others);
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

TEST_CASE(
    "when a rank fails in its process the others end by the same kind of error, which tells") {
  const auto children = three(fail_while_others_wait);
  CHECK(children[2]->next() == "out_of_memory: no room for gradients");
  for (const int rank : {0, 1})
    CHECK(children[static_cast<std::size_t>(rank)]->next().starts_with(
        "out_of_memory: rank 2 has failed: "));
  for (const auto& child : children) CHECK(child->ended_by_itself());
}

TEST_CASE(
    "rank 0 has the reports of the ranks of all processes, and what it says is known to all") {
  const auto children = three(tell_the_first);
  for (const auto& child : children) CHECK(child->next() == "7");
  // 2 (n - 1) / n of 1200 bytes are sent, of whatever each keeps.
  CHECK(children[0]->next() == "3 told");
  CHECK(children[0]->next() == "rank 0: 1200 B, sent 1600 B, loss 0.500000");
  CHECK(children[0]->next() == "rank 1: 2400 B, sent 1600 B, loss 1.500000");
  CHECK(children[0]->next() == "rank 2: 3600 B, sent 1600 B, loss 2.500000");
  for (const int rank : {1, 2}) CHECK(children[static_cast<std::size_t>(rank)]->next() == "0 told");
  for (const auto& child : children) CHECK(child->ended_by_itself());
}

TEST_CASE("every field of a rank's report goes from process to process; half a report is refused") {
  RankReport report;
  report.steps = {{Time(5), {Time(1), Time(2), Time(3), Time(4), Time(5)}}, {Time(9), {}}};
  report.channels = {{"replicate", "gradients", false, {}}, {"pipeline+1", "forward", true, {}}};
  report.channels[1].use = {Collective::send, 3, Bytes(40), Time(7), Time(6)};
  report.peak = Bytes(11);
  report.host_peak = Bytes(12);
  report.peak_by_label[2] = Bytes(13);
  report.matrix_flops = Flops(1e18);
  report.losses = {{0, 2.5}, {7, 1.25}};
  report.operations = 99;
  report.work = {{"layer", "gemm", WorkClass::attention, 4, Time(8)}};
  report.native = {{report.work[0], "kernel<128>"}};
  const std::string bytes = cuda::to_bytes(report);
  const RankReport back = cuda::report_from_bytes(bytes);
  REQUIRE(back.steps.size() == 2);
  CHECK(back.steps[0].at == Time(5));
  CHECK(back.steps[0].parts.bubble == Time(3));
  REQUIRE(back.channels.size() == 2);
  CHECK(back.channels[1].lane == "forward");
  CHECK(back.channels[1].edge);
  CHECK(back.channels[1].use.exposed == Time(6));
  CHECK(back.peak == report.peak);
  CHECK(back.host_peak == report.host_peak);
  CHECK(back.peak_by_label == report.peak_by_label);
  CHECK(back.matrix_flops == report.matrix_flops);
  CHECK(back.losses == report.losses);
  CHECK(back.operations == report.operations);
  CHECK(back.work == report.work);
  REQUIRE(back.native.size() == 1);
  CHECK(back.native[0].of == report.work[0]);
  CHECK(back.native[0].function == "kernel<128>");
  for (const std::string& wrong : {bytes.substr(0, bytes.size() - 1), bytes + "x", std::string()})
    CHECK(error_of([&] { cuda::report_from_bytes(wrong); })->category() == Category::mismatch);
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
  CHECK(wrong({{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "1"}})->message() ==
        "RANK is 2, WORLD_SIZE only 2");
  CHECK(wrong({{"WORLD_SIZE", "2"}})->message() == "RANK is not set, though WORLD_SIZE is");
  CHECK(wrong({{"RANK", "0"}, {"WORLD_SIZE", "2"}})->message() ==
        "MASTER_PORT is not set, though RANK is");
  CHECK(wrong({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "65535"}})->message() ==
        "MASTER_PORT is more than 65534: 65535");
  {
    const Environment torchrun({{"RANK", "0"},
                                {"WORLD_SIZE", "2"},
                                {"MASTER_PORT", "1234"},
                                {"TORCHELASTIC_USE_AGENT_STORE", "True"}});
    CHECK(transport::bootstrap_from_environment()->port == 1235);  // its own store has the other
  }
  const Environment one({{"RANK", "0"}, {"WORLD_SIZE", "1"}});
  CHECK(transport::bootstrap_from_environment()->processes == 1);  // which needs no port
  const Environment none({});
}

}  // namespace orrery
