// What the benchmarks of the simulated world share: clocks, a process per measurement, the bare
// heap that rates are compared with, and how they are printed.
#pragma once

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <functional>
#include <optional>
#include <queue>
#include <string>
#include <vector>

namespace orrery {

// Time that this process spent on a CPU: machines that run benchmarks are seldom idle.
struct CpuClock {
  using time_point = double;
  static time_point now() {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  }
};

inline double seconds_since(CpuClock::time_point start) { return CpuClock::now() - start; }

// Durations that differ by rank, so that few events coincide.
inline std::uint64_t staggered(std::uint64_t rank, std::uint64_t step) {
  return 1'000'000 + (rank * 7919 + step * 104'729) % 1'000'003;
}

// Completions per second of a std::priority_queue in a loop: what no simulator of events beats.
inline double bare_heap(std::uint32_t ranks, std::uint64_t events) {
  struct Entry {
    std::uint64_t time, rank, ordinal, payload;
    bool operator<(const Entry& o) const {
      if (time != o.time) return time > o.time;
      return rank != o.rank ? rank > o.rank : ordinal > o.ordinal;
    }
  };
  std::priority_queue<Entry> heap;
  for (std::uint32_t r = 0; r < ranks; ++r) heap.push({staggered(r, 0), r, 0, 0});
  const auto start = CpuClock::now();
  for (std::uint64_t i = 0; i < events; ++i) {
    const Entry e = heap.top();
    heap.pop();
    heap.push({e.time + staggered(e.rank, e.ordinal), e.rank, e.ordinal + 1, 0});
  }
  return static_cast<double>(events) / seconds_since(start);
}

// Memory of this process that is resident now, and the most that ever was, in MiB.
inline double status_mib(const std::string& field) {
  std::ifstream status("/proc/self/status");
  std::string word;
  double kib = 0;
  while (status >> word)
    if (word == field + ":") status >> kib;
  return kib / 1024;
}

struct Measured {
  double per_second = 0;  // operations
  double kib_per_rank = 0;
  double seconds = 0;
  double mib = 0;  // at its peak, above that of start-up
};

inline Measured in_child(const std::function<Measured()>& measure) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) std::abort();
  const pid_t child = fork();
  if (child == 0) {
    const Measured measured = measure();
    _exit(write(ends[1], &measured, sizeof measured) == sizeof measured ? 0 : 1);
  }
  close(ends[1]);
  Measured measured;
  if (::read(ends[0], &measured, sizeof measured) != sizeof measured) measured = {};
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return measured;
}

struct Options {
  int repetitions = 3;
  std::string prefix;
};

// Best of the repetitions; of a benchmark that was not asked for, nothing.
inline std::optional<Measured> report(const std::string& name, int count, const Options& options,
                                      const std::function<Measured()>& measure) {
  if (!name.starts_with(options.prefix)) return std::nullopt;
  std::vector<double> rates;
  Measured best;
  for (int i = 0; i < options.repetitions; ++i) {
    const Measured measured = in_child(measure);
    rates.push_back(measured.per_second);
    if (measured.per_second >= best.per_second) best = measured;
  }
  std::sort(rates.begin(), rates.end());
  fmt::print(
      R"({{"benchmark": "{}", "count": {}, "per_second": {:.4g}, "median": {:.4g}, "ns": {:.3g}, )"
      R"("kib_per_rank": {:.3g}, "seconds": {:.3g}, "mib": {:.4g}}})"
      "\n",
      name, count, rates.back(), rates[rates.size() / 2], 1e9 / rates.back(), best.kib_per_rank,
      best.seconds, best.mib);
  std::fflush(stdout);
  return best;
}

// A figure beside one of the same run, as absolute rates drift with the machine.
inline void report_ratio(const std::string& name, std::uint32_t count, double ratio) {
  fmt::print(R"({{"benchmark": "{}", "count": {}, "ratio": {:.3g}}})"
             "\n",
             name, count, ratio);
  std::fflush(stdout);
}

// What the design asks for; said on stderr where it is missed.
inline bool gate(bool met, const std::string& what) {
  if (!met) fmt::print(stderr, "missed: {}\n", what);
  return met;
}

// main() of a benchmark: [repetitions [prefix of the names to run]]; 1 where a budget is missed.
inline int bench_main(int argc, char** argv, bool (*run_all)(const Options&)) {
  Options options;
  if (argc > 1) options.repetitions = std::max(1, std::atoi(argv[1]));
  if (argc > 2) options.prefix = argv[2];
  return run_all(options) ? 0 : 1;
}

}  // namespace orrery
