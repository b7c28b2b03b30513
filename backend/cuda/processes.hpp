// One process per GPU, as torchrun starts them: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
#pragma once

#include <memory>
#include <mutex>
#include <optional>

#include "backend/cuda/world.hpp"
#include "backend/transport/store.hpp"

namespace orrery::cuda {

// Joins the processes by a TCP store, which the process of rank 0 keeps. Destroyed without
// `goodbye`, this process is lost to the others, whose runs end with an error that names its rank.
class Processes final : public Peers {
 public:
  explicit Processes(transport::Bootstrap bootstrap, Seconds patience = Seconds(300));
  transport::Store& store() { return *store_; }
  int port() const { return bootstrap_.port; }
  void goodbye() { store_->goodbye(); }  // its ranks have ended well

  void listen(Listener listener) override;
  void send(int to, const ControlMessage& message) override;

 private:
  transport::Bootstrap bootstrap_;
  std::mutex mutex_;
  Listener listener_;                  // guarded, as all below
  std::vector<ControlMessage> early_;  // before anyone listened
  std::exception_ptr failure_;
  bool all_ended_ = false;
  std::optional<transport::StoreServer> server_;
  std::unique_ptr<transport::TcpStore> store_;
};

}  // namespace orrery::cuda
