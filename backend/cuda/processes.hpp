// One process per GPU, as torchrun starts them: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
// MASTER_PORT.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backend/cuda/world.hpp"
#include "backend/transport/store.hpp"

namespace orrery::cuda {

// Joins the processes by a TCP store, which the process of rank 0 keeps. Destroyed without
// `goodbye` or `fail`, this process is lost to the others, whose runs end with an error that names
// its rank.
class Processes final : public Peers {
 public:
  explicit Processes(transport::Bootstrap bootstrap, Seconds patience = Seconds(300));
  transport::Store& store() { return *store_; }
  int rank() const { return bootstrap_.rank; }
  int count() const { return bootstrap_.processes; }
  int local_rank() const { return bootstrap_.local_rank; }
  int port() const { return bootstrap_.port; }
  void goodbye() { store_->goodbye(); }  // its ranks have ended well
  // Its part has failed; the others end by an error of this category that says what this one says.
  void fail(const Error& error) { store_->fail(error); }

  // What rank 0 says; all processes ask in one order. Waits for it. Throws what ended another.
  std::string said_by_first(const std::string& key, const std::string& mine);
  // Rank 0: what every process gives, by rank, when all have; the others: nothing, at once. Throws
  // what ended another. All processes gather in one order.
  std::vector<std::string> gather(std::string mine);
  // Rank 0 returns when all processes are there, so that none starts to look for it when it may
  // have gone; the others at once. Error{unavailable} when one is not there in time.
  void await_all();

  void listen(Listener listener) override;
  void send(int to, const ControlMessage& message) override;

 private:
  using Parts = std::map<int, std::string>;  // by rank
  void came(const std::string& bytes);
  Parts gather(std::string mine, Seconds patience);

  transport::Bootstrap bootstrap_;
  const Seconds patience_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Listener listener_;                    // guarded, as all below
  std::vector<ControlMessage> early_;    // before anyone listened
  std::map<std::int32_t, Parts> given_;  // by round of gathering
  std::int32_t round_ = 0;
  std::exception_ptr failure_;
  bool all_ended_ = false;
  std::optional<transport::StoreServer> server_;
  std::unique_ptr<transport::TcpStore> store_;
};

}  // namespace orrery::cuda
