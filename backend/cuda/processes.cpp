#include "backend/cuda/processes.hpp"

#include <cstring>

namespace orrery::cuda {

namespace {

// From, tag, values; the place of the sending stays behind.
std::string encode(const ControlMessage& message) {
  std::vector<std::int64_t> words{message.from, message.tag};
  words.insert(words.end(), message.values.begin(), message.values.end());
  return std::string(reinterpret_cast<const char*>(words.data()), words.size() * sizeof words[0]);
}

ControlMessage decode(const std::string& bytes) {
  std::vector<std::int64_t> words(bytes.size() / sizeof(std::int64_t));
  std::memcpy(words.data(), bytes.data(), words.size() * sizeof words[0]);
  ControlMessage message;
  message.from = static_cast<int>(words.at(0));
  message.tag = static_cast<Tag>(words.at(1));
  message.values.assign(words.begin() + 2, words.end());
  message.site = {"another process", 0};
  return message;
}

}  // namespace

Processes::Processes(transport::Bootstrap bootstrap, Seconds patience) : bootstrap_(bootstrap) {
  if (bootstrap_.rank == 0) {
    server_.emplace(bootstrap_.port);
    bootstrap_.port = server_->port();
  }
  store_ = std::make_unique<transport::TcpStore>(
      bootstrap_, patience,
      [this](const std::string& bytes) {
        const std::lock_guard lock(mutex_);
        if (listener_.message)
          listener_.message(bootstrap_.rank, decode(bytes));
        else
          early_.push_back(decode(bytes));
      },
      [this](std::exception_ptr failure) {
        const std::lock_guard lock(mutex_);
        failure_ = failure;
        if (listener_.lost) listener_.lost(failure);
      },
      [this] {
        const std::lock_guard lock(mutex_);
        all_ended_ = true;
        if (listener_.all_ended) listener_.all_ended();
      });
}

void Processes::listen(Listener listener) {
  const std::lock_guard lock(mutex_);
  listener_ = std::move(listener);
  if (!listener_.message) return;
  for (ControlMessage& early : early_) listener_.message(bootstrap_.rank, std::move(early));
  early_.clear();
  if (failure_ != nullptr) listener_.lost(failure_);
  if (all_ended_) listener_.all_ended();
}

void Processes::send(int to, const ControlMessage& message) { store_->send(to, encode(message)); }

}  // namespace orrery::cuda
