// Where ranks leave small values for each other before they can communicate: in one process, or by
// TCP between processes.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backend/core/error.hpp"
#include "backend/core/units.hpp"

namespace orrery::transport {

class Store {
 public:
  virtual ~Store() = default;
  // A key is set once.
  virtual void set(const std::string& key, const std::string& value) = 0;
  // The value when it is there; null before. Throws what failure() holds.
  virtual std::optional<std::string> find(const std::string& key) = 0;
};

// For ranks that are threads of one process.
class LocalStore final : public Store {
 public:
  void set(const std::string& key, const std::string& value) override;
  std::optional<std::string> find(const std::string& key) override;

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> values_;
};

// Who a process is among those that train together, by the variables that torchrun and Slurm's
// wrappers set: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, and LOCAL_RANK for the GPU.
struct Bootstrap {
  int rank = 0, processes = 1;
  std::string address = "127.0.0.1";
  int port = 29500;
  int local_rank = 0;
};
// Null where neither RANK nor WORLD_SIZE is set. Error{usage} for a variable that is missing, not a
// number or out of range; MASTER_PORT is needed where there are others. The port is the next one
// where torchrun says that a store of its own is at MASTER_PORT (TORCHELASTIC_USE_AGENT_STORE; see
// torch/distributed/rendezvous.py).
std::optional<Bootstrap> bootstrap_from_environment();

// The server's side: a map, and who is connected. The process of rank 0 has one.
class StoreServer {
 public:
  // Listens on `port` of all interfaces, 0: on a free one. Error{unavailable} when it cannot.
  explicit StoreServer(int port);
  ~StoreServer();  // waits until no process is connected any more
  int port() const { return port_; }

 private:
  struct Client;
  void run();
  void accept_client();
  bool serve(Client& client);
  void welcome(Client& client, int process);
  void pass_on(int process, const std::string& message);
  void lose(Client& client);
  void part(Client& client, const std::string& news);
  void tell_gone(const std::string& news);
  void send_all(const std::string& frame);

  int listener_ = -1, port_ = 0;
  int wake_[2] = {-1, -1};
  std::map<std::string, std::string> values_;
  std::map<int, std::vector<std::string>> early_;  // messages, by process, before its hello
  std::vector<std::string> gone_;                  // frames that tell who was lost or has ended
  std::vector<std::unique_ptr<Client>> clients_;
  std::thread thread_;
};

// A process's side. Values that anyone sets come to all, as do messages and the news that a process
// has failed, or has gone: its connection ended before it said goodbye. Who connects later learns
// of it, too.
class TcpStore final : public Store {
 public:
  using Message = std::function<void(const std::string& bytes)>;
  // Connects, trying again until `patience` is over: rank 0 may start later. `on_message` runs on
  // the store's own thread, as do `on_loss`, once, when a process has failed or gone, and
  // `on_all_ended`, when all others have said goodbye.
  TcpStore(const Bootstrap& bootstrap, Seconds patience, Message on_message = {},
           std::function<void(std::exception_ptr)> on_loss = {},
           std::function<void()> on_all_ended = {});
  ~TcpStore() override;
  void goodbye();  // this process may end from now on; without, the others take it for lost
  void fail(const Error& error);  // it will end by this error, and so shall the others

  void set(const std::string& key, const std::string& value) override;
  std::optional<std::string> find(const std::string& key) override;
  void send(int process, const std::string& bytes);
  std::exception_ptr failure() const;

 private:
  void run();
  void write(char kind, int to, const std::string& key, const std::string& value);
  void lost(Error error);

  const Bootstrap bootstrap_;
  int socket_ = -1;
  Message on_message_;
  std::function<void(std::exception_ptr)> on_loss_;
  std::function<void()> on_all_ended_;
  mutable std::mutex mutex_;
  std::mutex writing_;
  std::map<std::string, std::string> values_;
  std::exception_ptr failure_;
  std::atomic<bool> leaving_{false};
  std::thread thread_;
};

}  // namespace orrery::transport
