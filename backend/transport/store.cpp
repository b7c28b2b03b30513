#include "backend/transport/store.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>

namespace orrery::transport {

namespace {

// A frame: kind, process, lengths of key and value, key, value.
//   h hello (process: who)    s set     m message (process: to whom)
//   g goodbye (process: who)  l lost (process: who)
//   f failure (process: who; key: number of the category, value: message)
struct Header {
  char kind = 0;
  std::int32_t process = 0;
  std::uint32_t key = 0, value = 0;
};

std::string frame(char kind, int process, const std::string& key, const std::string& value) {
  const Header header{kind, process, static_cast<std::uint32_t>(key.size()),
                      static_cast<std::uint32_t>(value.size())};
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + key + value;
}

struct Frame {
  Header header;
  std::string key, value;
};

// Bytes as they come, cut into frames.
class Incoming {
 public:
  // Whether the connection is still there.
  bool read_from(int socket) {
    char bytes[4096];
    const ssize_t got = recv(socket, bytes, sizeof bytes, 0);
    if (got < 0) return errno == EINTR || errno == EAGAIN;
    bytes_.append(bytes, static_cast<std::size_t>(got));
    return got > 0;
  }
  std::optional<Frame> next() {
    Frame f;
    if (bytes_.size() < sizeof f.header) return std::nullopt;
    std::memcpy(&f.header, bytes_.data(), sizeof f.header);
    const std::size_t key = sizeof f.header, value = key + f.header.key,
                      end = value + f.header.value;
    if (bytes_.size() < end) return std::nullopt;
    f.key = bytes_.substr(key, f.header.key);
    f.value = bytes_.substr(value, f.header.value);
    bytes_.erase(0, end);
    return f;
  }

 private:
  std::string bytes_;
};

void write_all(int socket, const std::string& bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const ssize_t sent = ::send(socket, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return;  // the reader finds out that the other side has gone
    at += static_cast<std::size_t>(sent);
  }
}

// Small frames go at once; the end of a machine that says nothing more is known within 10 s.
void prepare_connection(int socket) {
  const auto set = [socket](int level, int option, int value) {
    setsockopt(socket, level, option, &value, sizeof value);
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 4);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 2);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
}

Error gone(int rank) {
  return Error(Category::unavailable,
               "rank " + std::to_string(rank) + " has gone: its process ended before the run did");
}

Error system_error(const std::string& what) {
  return Error(Category::unavailable, what + ": " + std::strerror(errno));
}

int number_from(const std::string& variable, long most = 1'000'000) {
  const char* text = std::getenv(variable.c_str());
  if (text == nullptr)
    throw Error(Category::usage, variable + " is not set, though " +
                                     (variable == "RANK" ? "WORLD_SIZE" : "RANK") + " is");
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (end == text || *end != '\0' || value < 0)
    throw Error(Category::usage, variable + " is not a number: " + text);
  if (value > most)
    throw Error(Category::usage, variable + " is more than " + std::to_string(most) + ": " + text);
  return static_cast<int>(value);
}

}  // namespace

void LocalStore::set(const std::string& key, const std::string& value) {
  const std::lock_guard lock(mutex_);
  values_[key] = value;
}

std::optional<std::string> LocalStore::find(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto found = values_.find(key);
  if (found == values_.end()) return std::nullopt;
  return found->second;
}

std::optional<Bootstrap> bootstrap_from_environment() {
  if (std::getenv("RANK") == nullptr && std::getenv("WORLD_SIZE") == nullptr) return std::nullopt;
  Bootstrap b;
  b.rank = number_from("RANK");
  b.processes = number_from("WORLD_SIZE");
  if (b.rank >= b.processes)
    throw Error(Category::usage, "RANK is " + std::to_string(b.rank) + ", WORLD_SIZE only " +
                                     std::to_string(b.processes));
  if (b.processes > 1) b.port = number_from("MASTER_PORT", 65535 - 1);
  const char* agent = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
  if (agent != nullptr && std::string(agent) == "True") ++b.port;
  if (const char* address = std::getenv("MASTER_ADDR")) b.address = address;
  b.local_rank = std::getenv("LOCAL_RANK") != nullptr ? number_from("LOCAL_RANK") : b.rank;
  return b;
}

// ---- Server

struct StoreServer::Client {
  int socket = -1;
  int process = -1;  // before its hello
  bool left = false;
  Incoming incoming;
};

StoreServer::StoreServer(int port) {
  listener_ = socket(AF_INET, SOCK_STREAM, 0);
  const int yes = 1;
  setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      listen(listener_, 1024) != 0 || pipe(wake_) != 0)
    throw system_error("rank 0 cannot listen on port " + std::to_string(port));
  socklen_t size = sizeof address;
  getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { run(); });
}

StoreServer::~StoreServer() {
  const char byte = 0;
  if (::write(wake_[1], &byte, 1) == 1) thread_.join();
  for (const auto& client : clients_) ::close(client->socket);
  for (const int descriptor : {listener_, wake_[0], wake_[1]}) ::close(descriptor);
}

void StoreServer::run() {
  bool leaving = false;
  while (!leaving || !clients_.empty()) {
    std::vector<pollfd> watched{{leaving ? -1 : wake_[0], POLLIN, 0}, {listener_, POLLIN, 0}};
    for (const auto& client : clients_) watched.push_back({client->socket, POLLIN, 0});
    if (poll(watched.data(), watched.size(), -1) < 0) continue;
    for (std::size_t i = 2; i < watched.size(); ++i)
      if (watched[i].revents != 0 && !serve(*clients_[i - 2])) lose(*clients_[i - 2]);
    std::erase_if(clients_, [](const auto& client) { return client->socket < 0; });
    leaving = leaving || watched[0].revents != 0;
    if (watched[1].revents != 0) accept_client();
  }
}

void StoreServer::accept_client() {
  auto client = std::make_unique<Client>();
  client->socket = accept(listener_, nullptr, nullptr);
  if (client->socket < 0) return;
  prepare_connection(client->socket);
  for (const auto& [key, value] : values_) write_all(client->socket, frame('s', 0, key, value));
  clients_.push_back(std::move(client));
}

// Whether the client is still there.
bool StoreServer::serve(Client& client) {
  const bool connected = client.incoming.read_from(client.socket);
  while (const auto f = client.incoming.next()) {
    if (f->header.kind == 'h') welcome(client, f->header.process);
    if (f->header.kind == 'g') part(client, frame('g', client.process, "", ""));
    if (f->header.kind == 'f') part(client, frame('f', client.process, f->key, f->value));
    if (f->header.kind == 's') {
      values_[f->key] = f->value;
      send_all(frame('s', 0, f->key, f->value));
    }
    if (f->header.kind == 'm') pass_on(f->header.process, frame('m', client.process, "", f->value));
  }
  return connected;
}

// What was sent to it before comes first: who has gone may have sent it, and whoever has learned
// that all others have gone listens no more.
void StoreServer::welcome(Client& client, int process) {
  client.process = process;
  for (const std::string& message : early_[process]) write_all(client.socket, message);
  early_.erase(process);
  for (const std::string& news : gone_) write_all(client.socket, news);
}

// A process that has not said hello yet gets its messages when it does.
void StoreServer::pass_on(int process, const std::string& message) {
  for (const auto& client : clients_)
    if (client->process == process) return write_all(client->socket, message);
  early_[process].push_back(message);
}

void StoreServer::lose(Client& client) {
  ::close(client.socket);
  client.socket = -1;
  if (!client.left && client.process >= 0) tell_gone(frame('l', client.process, "", ""));
}

void StoreServer::part(Client& client, const std::string& news) {
  client.left = true;
  tell_gone(news);
}

// Who has not said hello yet is told then.
void StoreServer::tell_gone(const std::string& news) {
  gone_.push_back(news);
  for (const auto& client : clients_)
    if (client->socket >= 0 && client->process >= 0) write_all(client->socket, news);
}

void StoreServer::send_all(const std::string& bytes) {
  for (const auto& client : clients_)
    if (client->socket >= 0) write_all(client->socket, bytes);
}

// ---- Client

TcpStore::TcpStore(const Bootstrap& bootstrap, Seconds patience, Message on_message,
                   std::function<void(std::exception_ptr)> on_loss,
                   std::function<void()> on_all_ended)
    : bootstrap_(bootstrap),
      on_message_(std::move(on_message)),
      on_loss_(std::move(on_loss)),
      on_all_ended_(std::move(on_all_ended)) {
  const auto start = std::chrono::steady_clock::now();
  const std::string where = bootstrap.address + ":" + std::to_string(bootstrap.port);
  while (socket_ < 0) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_family = AF_INET;
    if (getaddrinfo(bootstrap.address.c_str(), std::to_string(bootstrap.port).c_str(), &hints,
                    &found) == 0) {
      socket_ = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
      if (connect(socket_, found->ai_addr, found->ai_addrlen) != 0) {
        ::close(socket_);
        socket_ = -1;
      }
      freeaddrinfo(found);
    }
    if (socket_ >= 0) break;
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - start;
    if (waited.count() > patience.value)
      throw system_error("rank " + std::to_string(bootstrap.rank) +
                         " cannot reach rank 0 at MASTER_ADDR:MASTER_PORT " + where);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  prepare_connection(socket_);
  write('h', bootstrap.rank, "", "");
  thread_ = std::thread([this] { run(); });
}

void TcpStore::goodbye() { write('g', 0, "", ""); }

void TcpStore::fail(const Error& error) {
  write('f', 0, std::to_string(static_cast<int>(error.category())), error.what());
}

TcpStore::~TcpStore() {
  leaving_ = true;
  shutdown(socket_, SHUT_RDWR);
  thread_.join();
  ::close(socket_);
}

void TcpStore::write(char kind, int to, const std::string& key, const std::string& value) {
  const std::lock_guard lock(writing_);
  write_all(socket_, frame(kind, to, key, value));
}

void TcpStore::set(const std::string& key, const std::string& value) {
  {
    const std::lock_guard lock(mutex_);
    values_[key] = value;
  }
  write('s', 0, key, value);
}

std::optional<std::string> TcpStore::find(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto found = values_.find(key);
  if (found != values_.end()) return found->second;
  if (failure_ != nullptr) std::rethrow_exception(failure_);
  return std::nullopt;
}

void TcpStore::send(int process, const std::string& bytes) { write('m', process, "", bytes); }

std::exception_ptr TcpStore::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void TcpStore::run() {
  Incoming incoming;
  int others = bootstrap_.processes - 1;  // that have not ended
  while (incoming.read_from(socket_))
    while (const auto f = incoming.next()) {
      if (f->header.kind == 's') {
        const std::lock_guard lock(mutex_);
        values_[f->key] = f->value;
      }
      if (f->header.kind == 'm' && on_message_) on_message_(f->value);
      if (f->header.kind == 'g' && f->header.process != bootstrap_.rank && --others == 0 &&
          on_all_ended_)
        on_all_ended_();
      if (f->header.kind == 'f' && f->header.process != bootstrap_.rank)
        lost(Error(static_cast<Category>(std::stoi(f->key)),
                   "rank " + std::to_string(f->header.process) + " has failed: " + f->value));
      if (f->header.kind == 'l') lost(gone(f->header.process));
    }
  if (!leaving_) lost(gone(0));
}

void TcpStore::lost(Error error) {
  const auto failure =
      std::make_exception_ptr(error.with("noticed by", "rank " + std::to_string(bootstrap_.rank)));
  {
    const std::lock_guard lock(mutex_);
    if (failure_ != nullptr) return;
    failure_ = failure;
  }
  if (on_loss_) on_loss_(failure);
}

}  // namespace orrery::transport
