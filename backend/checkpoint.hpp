// State that outlives a step, by name: one mechanism for checkpoints, resuming, restarting after a
// failure and comparing worlds.
//
// An algorithm shows its state to an archive in `visit`; what the archive does with it is its own
// business.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "backend/rank.hpp"
#include "backend/tensor.hpp"

namespace orrery {

class Archive {
 public:
  virtual ~Archive() = default;
  virtual void field(std::string_view name, Tensor& tensor) = 0;
  virtual void field(std::string_view name, std::int64_t& value) = 0;
  virtual void field(std::string_view name, double& value) = 0;

  // Fields visited inside a scope are called "scope.field".
  class Scope {
   public:
    Scope(Archive& archive, std::string_view name);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Archive& archive_;
    std::size_t length_;
  };

 protected:
  std::string full(std::string_view name) const { return prefix_ + std::string(name); }

 private:
  std::string prefix_;
};

// One rank's state. A tensor without values in this run is kept as no bytes.
struct Checkpoint {
  std::map<std::string, std::vector<std::byte>> fields;
  bool operator==(const Checkpoint&) const = default;
};

// Copies state out of a rank; waits for the operations that write it. Error{invalid_program} for a
// name visited twice.
class Saver : public Archive {
 public:
  Saver(Rank& rank, Checkpoint& to) : rank_(rank), to_(to) {}
  void field(std::string_view name, Tensor& tensor) override;
  void field(std::string_view name, std::int64_t& value) override;
  void field(std::string_view name, double& value) override;

 private:
  void put(std::string name, std::vector<std::byte> bytes);
  Rank& rank_;
  Checkpoint& to_;
};

// Copies state into a rank. Error{config} for a field that the checkpoint lacks or that has another
// size; finish() also for a field that nobody asked for.
class Loader : public Archive {
 public:
  Loader(Rank& rank, const Checkpoint& from) : rank_(rank), from_(from) {}
  void field(std::string_view name, Tensor& tensor) override;
  void field(std::string_view name, std::int64_t& value) override;
  void field(std::string_view name, double& value) override;
  void finish() const;

 private:
  const std::vector<std::byte>& get(const std::string& name, std::size_t size, bool may_be_empty);
  Rank& rank_;
  const Checkpoint& from_;
  std::map<std::string, bool> seen_;
};

// A file of all ranks' checkpoints, written under a temporary name and renamed. Reading throws
// Error{config} for a file that is not one, is cut short, or was damaged (it ends in a SHA-256 of
// the rest).
void write_checkpoints(const std::string& path, const std::vector<Checkpoint>& ranks);
std::vector<Checkpoint> read_checkpoints(const std::string& path);

}  // namespace orrery
