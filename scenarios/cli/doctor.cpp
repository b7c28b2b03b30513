// `orrery doctor`: what this build and machine can do.
#include <fmt/core.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "backend/core/table.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/cuda_world.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/cli/version.hpp"
#include "sim/simgrid/engine.hpp"

namespace orrery::cli {

namespace {

using Json = nlohmann::ordered_json;

Json limit(int resource) {
  rlimit found{};
  if (getrlimit(static_cast<__rlimit_resource>(resource), &found) != 0) return nullptr;
  return found.rlim_cur == RLIM_INFINITY ? Json("unlimited")
                                         : Json(static_cast<std::int64_t>(found.rlim_cur));
}

Json number_in(const char* file) {
  std::ifstream in(file);
  std::int64_t value = 0;
  return in >> value ? Json(value) : Json(nullptr);
}

Json cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return nullptr;
}

// What would keep large simulations or runs from working here, each with what to do.
std::vector<std::string> advice_for(const Json& j) {
  std::vector<std::string> advice;
  constexpr std::int64_t enough_maps = 65'530, enough_memory = std::int64_t{2} << 30;
  if (j["max_map_count"].is_number() && j["max_map_count"] < enough_maps)
    advice.push_back(
        "vm.max_map_count is below the usual 65530: simulations of many ranks may fail to get "
        "stacks; as administrator: sysctl vm.max_map_count=65530");
  if (j["max_processes"].is_number() && j["max_processes"] < 1024)
    advice.push_back(
        "few processes or threads are allowed (ulimit -u): `run --world cpu` takes a thread per "
        "rank and stream");
  if (j["memory_bytes"].is_number() && j["memory_bytes"] < enough_memory)
    advice.push_back(
        "less than 2 GiB of memory: a simulated rank takes up to 256 KiB of stack as it is used");
  if (std::string(j["build"]).find("debug") != std::string::npos)
    advice.push_back("this is a debug build: simulations are several times slower");
  return advice;
}

std::string text_of(const std::string& key, const Json& value) {
  if (value.is_null()) return "none";
  if (value.is_string()) return value;
  if (value.is_array()) {
    std::string all;
    for (const Json& one : value) all += (all.empty() ? "" : ", ") + one.get<std::string>();
    return all.empty() ? "none" : all;
  }
  if (key == "stack_limit" || key.ends_with("_bytes"))
    return format_bytes(Bytes(value.get<std::int64_t>()));
  return format_thousands(value.get<std::int64_t>());
}

}  // namespace

int doctor(const Arguments& arguments) {
  Json j;
  j["version"] = version();
  j["build"] = build();
  const CudaSupport cuda = cuda_support();
  j["cuda"] = cuda.driver ? Json(*cuda.driver) : Json(nullptr);
  j["cuda_missing"] = cuda.missing.empty() ? Json(nullptr) : Json(cuda.missing);
  j["gpus"] = cuda.gpus;
  j["nccl"] = cuda.nccl ? Json(*cuda.nccl) : Json(nullptr);
  j["cudnn"] = cuda.cudnn ? Json(*cuda.cudnn) : Json(nullptr);
  j["mpi"] = nullptr;
  j["simgrid"] = sim::simgrid_version();
  j["cpu"] = cpu_name();
  j["cpu_threads"] = std::thread::hardware_concurrency();
  j["memory_bytes"] = static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  j["stack_limit"] = limit(RLIMIT_STACK);
  j["max_map_count"] = number_in("/proc/sys/vm/max_map_count");
  j["max_processes"] = limit(RLIMIT_NPROC);
  j["max_threads"] = number_in("/proc/sys/kernel/threads-max");
  j["data"] = data_root();
  const std::vector<std::string> advice = advice_for(j);
  if (arguments.json) {
    j["advice"] = advice;
    fmt::print("{}\n", j.dump(2));
    return 0;
  }
  for (const auto& [key, value] : j.items()) fmt::print("{:<14} {}\n", key, text_of(key, value));
  for (const std::string& sentence : advice) fmt::print("advice: {}\n", sentence);
  return 0;
}

}  // namespace orrery::cli
