#include "scenarios/cli/process_group.hpp"

#include <fmt/core.h>

#ifdef ORRERY_CUDA
#include "backend/core/sha256.hpp"
#include "backend/cuda/gather.hpp"
#include "backend/cuda/processes.hpp"
#include "scenarios/cli/version.hpp"
#endif

namespace orrery::cli {

#ifdef ORRERY_CUDA

ProcessGroup ProcessGroup::joined(const std::string& world) {
  ProcessGroup group;
  if (world != "cuda") return group;
  const auto bootstrap = transport::bootstrap_from_environment();
  if (!bootstrap || bootstrap->processes == 1) return group;
  group.processes_ = std::make_shared<cuda::Processes>(*bootstrap);
  group.processes_->await_all();
  return group;
}

bool ProcessGroup::speaks() const { return alone() || processes_->rank() == 0; }

int ProcessGroup::carry_out(const std::function<int()>& work) const {
  if (alone()) return work();
  try {
    const int code = work();
    processes_->goodbye();
    return code;
  } catch (const Error& error) {
    processes_->fail(error);
    throw;
  } catch (const std::exception& error) {
    processes_->fail(Error(Category::internal, error.what()));
    throw;
  }
}

void ProcessGroup::check(const Scenario& scenario) const {
  if (alone()) return;
  if (scenario.gpus() != processes_->count())
    throw Error(
        Category::usage,
        fmt::format("the scenario has {} ranks, and WORLD_SIZE is {}: `--set "
                    "platform.gpus={}`, or start {} processes",
                    scenario.gpus(), processes_->count(), processes_->count(), scenario.gpus()));
  const std::string mine = sha256_hex(version() + "\n" + build() + "\n" + resolved_yaml(scenario));
  if (processes_->said_by_first("scenario", mine) != mine)
    throw Error(Category::config, fmt::format("rank {} was started with another scenario, or "
                                              "another build of orrery, than rank 0",
                                              processes_->rank()));
}

std::vector<std::string> ProcessGroup::gather(RunReport& report, const std::string& mine) const {
  if (alone()) return {mine};
  return cuda::gather(*processes_, report, mine);
}

#else

ProcessGroup ProcessGroup::joined(const std::string&) { return {}; }
bool ProcessGroup::speaks() const { return true; }
int ProcessGroup::carry_out(const std::function<int()>& work) const { return work(); }
void ProcessGroup::check(const Scenario&) const {}
std::vector<std::string> ProcessGroup::gather(RunReport&, const std::string& mine) const {
  return {mine};
}

#endif

}  // namespace orrery::cli
