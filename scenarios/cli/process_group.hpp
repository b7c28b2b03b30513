// The processes that run one scenario together on GPUs, a rank in each, as torchrun starts them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/core/error.hpp"
#include "backend/world.hpp"
#include "scenarios/scenario.hpp"

namespace orrery::cuda {
class Processes;
}

namespace orrery::cli {

// What this process is among them; alone where it is the only one.
class ProcessGroup {
 public:
  // Joins the others where RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT tell of any,
  // in `world` "cuda". Error{usage} for what is wrong with those, Error{unavailable} where rank 0
  // cannot be reached.
  static ProcessGroup joined(const std::string& world);
  bool alone() const { return processes_ == nullptr; }
  bool speaks() const;  // prints the result and writes its files: alone, or of rank 0
  cuda::Processes* processes() const { return processes_.get(); }

  // Returns what `work` returns. What it throws ends the others, too, by an error of the same
  // category.
  int carry_out(const std::function<int()>& work) const;
  // Error{usage} unless the scenario has a rank for each process, Error{config} unless it is that
  // of rank 0, to be run by the same program.
  void check(const Scenario& scenario) const;
  // Where it speaks: adds what the others report to `report`, and returns what each process told
  // besides, by rank; alone that is `mine`. Elsewhere hands both over and returns nothing.
  std::vector<std::string> gather(RunReport& report, const std::string& mine) const;

 private:
  std::shared_ptr<cuda::Processes> processes_;
};

}  // namespace orrery::cli
