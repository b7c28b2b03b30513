// A world runs rank programs. There are three: sim (SimGrid), cpu (threads, Eigen), cuda (GPUs,
// NCCL).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/axes.hpp"
#include "backend/channel.hpp"
#include "backend/core/philox.hpp"
#include "backend/core/units.hpp"
#include "backend/decisions.hpp"
#include "backend/flow.hpp"
#include "backend/ledger.hpp"
#include "backend/prepared.hpp"
#include "backend/step_marks.hpp"
#include "backend/work_times.hpp"

namespace orrery {

class Rank;

// Sees what the streams of a real world did, as it ends; for traces. Calls come one at a time for
// each rank, and from several threads.
class StreamObserver {
 public:
  enum class What : std::uint8_t { kernel, sequence, copy, wait, communication };
  virtual ~StreamObserver() = default;
  virtual void opened(int rank, std::uint32_t stream, const std::string& name) = 0;
  // [begin, end] since the start of the run.
  virtual void ended(int rank, std::uint32_t stream, What what, const char* label, Time begin,
                     Time end) = 0;
};

struct WorldOptions {
  Grid grid;
  bool real_values = false;
  std::uint64_t seed = 1;
  Bytes device_capacity{0};  // 0: unlimited
  Bytes host_capacity{0};
  const KernelBodies* bodies =
      nullptr;  // needed when real_values or when Values::always kernels run
  DecisionMode decisions = DecisionMode::free;
  std::vector<DecisionLog> replay;     // for DecisionMode::replay; by rank, then by service
  StreamObserver* observer = nullptr;  // of a real world, which it outlives; null: none
};

struct ChannelReport {
  std::string group, lane;
  bool edge = false;
  ChannelUse use;
};

struct RankReport {
  StepMarks steps;  // by step, from 0
  std::vector<ChannelReport> channels;
  Bytes peak, host_peak;
  BytesByLabel peak_by_label{};
  Flops matrix_flops{0};
  std::map<std::int64_t, double> losses;
  std::uint64_t operations = 0;
  std::vector<WorkRow> work;      // empty: not kept
  std::vector<NativeRow> native;  // cuda, where a profiler was there
};

// Reports by rank. Ranks of which one was simulated for all share its report.
class RankReports {
 public:
  std::size_t size() const { return report_of_.empty() ? reports_.size() : report_of_.size(); }
  RankReport& operator[](std::size_t rank) { return reports_[number_of(rank)]; }
  const RankReport& operator[](std::size_t rank) const { return reports_[number_of(rank)]; }
  // One report each, or one for all ranks of which `report_of` names the same; it numbers them in
  // the order of the first ranks that have them.
  void resize(std::size_t ranks) { reports_.resize(ranks); }
  void share(std::vector<std::uint32_t> report_of, std::size_t reports) {
    report_of_ = std::move(report_of);
    reports_.resize(reports);
  }
  // How many are different, and they, in the order of the first ranks that have them.
  std::size_t distinct() const { return reports_.size(); }
  const std::vector<RankReport>& different() const { return reports_; }
  std::size_t number_of(std::size_t rank) const {
    return report_of_.empty() ? rank : report_of_[rank];
  }

  template <class Reports, class Report>
  struct Iterator {
    Reports* reports;
    std::size_t rank;
    Report& operator*() const { return (*reports)[rank]; }
    Iterator& operator++() {
      ++rank;
      return *this;
    }
    bool operator!=(const Iterator& o) const { return rank != o.rank; }
  };
  auto begin() { return Iterator<RankReports, RankReport>{this, 0}; }
  auto end() { return Iterator<RankReports, RankReport>{this, size()}; }
  auto begin() const { return Iterator<const RankReports, const RankReport>{this, 0}; }
  auto end() const { return Iterator<const RankReports, const RankReport>{this, size()}; }

 private:
  std::vector<RankReport> reports_;
  std::vector<std::uint32_t> report_of_;  // by rank
};

// The most that allocators of device memory held at once, in all.
struct PoolUse {
  Bytes used;      // by tensors and scratch
  Bytes reserved;  // from the device
};

struct RunReport {
  RankReports ranks;
  std::vector<DecisionLog> decisions;  // when recorded; by rank, then by service
  Time end;                            // of the last operation
  std::uint64_t activities = 0;        // operations completed, over all ranks
  std::uint64_t flows = 0;             // contended transfers (sim)
  Bytes arena_high_water;       // cpu: most that a rank's arena held at once, by its own count
  std::optional<PoolUse> pool;  // cuda
};

// State that the ranks of a world share. Made by the world; `Rank` uses it.
struct WorldState {
  explicit WorldState(WorldOptions o) : options(std::move(o)), communicators(options.grid) {}
  WorldOptions options;
  Communicators communicators;
  std::function<Catalogue&(int rank)> catalogue;  // one per kind of device
  std::vector<std::string> services;              // address = number of ranks + index
};

// A control-only program beside the ranks (matchmaker, tracker). It ends, by unwinding from its
// receive, when all ranks have.
class Service {
 public:
  virtual ~Service() = default;
  virtual Seconds now() = 0;
  virtual Random& rng(Purpose purpose) = 0;
  virtual void control_send(int to, Tag tag, std::span<const std::int64_t> values,
                            Site site = Site::here()) = 0;
  virtual std::optional<ControlMessage> control_receive(Tag tag, int from = any_source,
                                                        Seconds timeout = forever) = 0;
};

class World {
 public:
  using Program = std::function<void(Rank&)>;
  using ServiceProgram = std::function<void(Service&)>;
  virtual ~World() = default;
  virtual void add_service(const std::string& name, ServiceProgram program) = 0;
  // Runs `program` on every rank to its end, then drains all streams. Throws the first failure:
  // Error{deadlock, mismatch, …} with rank, flow, operation, call site and time. A world runs once.
  virtual RunReport run(const Program& program) = 0;
};

}  // namespace orrery
