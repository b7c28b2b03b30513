#include "backend/cuda/processes.hpp"

#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

namespace orrery::cuda {

namespace {

// What a process sends another begins with what it is: a message of the program's, or what is
// gathered of it.
constexpr char control = 'c', part = 'p';

// From, tag, values; the place of the sending stays behind.
std::string encode(const ControlMessage& message) {
  std::vector<std::int64_t> words{message.from, message.tag};
  words.insert(words.end(), message.values.begin(), message.values.end());
  std::string bytes(1, control);
  return bytes.append(reinterpret_cast<const char*>(words.data()), words.size() * sizeof words[0]);
}

ControlMessage decode(const std::string& bytes) {
  std::vector<std::int64_t> words((bytes.size() - 1) / sizeof(std::int64_t));
  std::memcpy(words.data(), bytes.data() + 1, words.size() * sizeof words[0]);
  ControlMessage message;
  message.from = static_cast<int>(words.at(0));
  message.tag = static_cast<Tag>(words.at(1));
  message.values.assign(words.begin() + 2, words.end());
  message.site = {"another process", 0};
  return message;
}

// In which round of gathering, and which rank; what it gives comes behind.
struct PartHead {
  std::int32_t round = 0, rank = 0;
};

std::string encode_part(const PartHead& head, const std::string& bytes) {
  return part + std::string(reinterpret_cast<const char*>(&head), sizeof head) + bytes;
}

std::pair<PartHead, std::string> decode_part(const std::string& bytes) {
  PartHead head;
  std::memcpy(&head, bytes.data() + 1, sizeof head);
  return {head, bytes.substr(1 + sizeof head)};
}

}  // namespace

Processes::Processes(transport::Bootstrap bootstrap, Seconds patience)
    : bootstrap_(std::move(bootstrap)), patience_(patience) {
  if (bootstrap_.rank == 0) {
    server_.emplace(bootstrap_.port);
    bootstrap_.port = server_->port();
  }
  store_ = std::make_unique<transport::TcpStore>(
      bootstrap_, patience, [this](const std::string& bytes) { came(bytes); },
      [this](std::exception_ptr failure) {
        const std::lock_guard lock(mutex_);
        failure_ = failure;
        changed_.notify_all();
        if (listener_.lost) listener_.lost(failure);
      },
      [this] {
        const std::lock_guard lock(mutex_);
        all_ended_ = true;
        if (listener_.all_ended) listener_.all_ended();
      });
}

void Processes::came(const std::string& bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes.starts_with(part)) {
    auto [head, given] = decode_part(bytes);
    given_[head.round][head.rank] = std::move(given);
    changed_.notify_all();
  } else if (listener_.message) {
    listener_.message(bootstrap_.rank, decode(bytes));
  } else {
    early_.push_back(decode(bytes));
  }
}

std::string Processes::said_by_first(const std::string& key, const std::string& mine) {
  if (bootstrap_.rank == 0) {
    store_->set(key, mine);
    return mine;
  }
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::duration<double>(patience_.value);
  while (std::chrono::steady_clock::now() < end) {
    if (auto value = store_->find(key)) return *value;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  throw Error(Category::deadlock, "rank 0 has not said its '" + key + "'")
      .with("rank", std::to_string(bootstrap_.rank));
}

Processes::Parts Processes::gather(std::string mine, Seconds patience) {
  const std::int32_t round = round_++;
  if (bootstrap_.rank != 0) {
    store_->send(0, encode_part({round, bootstrap_.rank}, mine));
    return {};
  }
  std::unique_lock lock(mutex_);
  Parts& parts = given_[round];
  parts[0] = std::move(mine);
  const auto enough = [&] {
    return parts.size() == static_cast<std::size_t>(bootstrap_.processes) || failure_ != nullptr;
  };
  if (patience == forever)
    changed_.wait(lock, enough);
  else
    changed_.wait_for(lock, std::chrono::duration<double>(patience.value), enough);
  return std::move(parts);
}

std::vector<std::string> Processes::gather(std::string mine) {
  std::vector<std::string> all;
  for (auto& [rank, bytes] : gather(std::move(mine), forever)) all.push_back(std::move(bytes));
  if (bootstrap_.rank == 0 && all.size() < static_cast<std::size_t>(bootstrap_.processes))
    std::rethrow_exception(store_->failure());
  return all;
}

void Processes::await_all() {
  const Parts there = gather("", patience_);
  if (bootstrap_.rank != 0 || there.size() == static_cast<std::size_t>(bootstrap_.processes))
    return;
  if (const auto failure = store_->failure()) std::rethrow_exception(failure);
  Error error(Category::unavailable, "only " + std::to_string(there.size()) + " of " +
                                         std::to_string(bootstrap_.processes) +
                                         " processes have come (WORLD_SIZE)");
  for (int rank = 0; rank < bootstrap_.processes; ++rank)
    if (!there.contains(rank)) throw error.with("missing", "rank " + std::to_string(rank));
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
