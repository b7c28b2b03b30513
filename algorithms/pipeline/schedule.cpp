#include "algorithms/pipeline/schedule.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "algorithms/pipeline/task_order.hpp"
#include "backend/core/error.hpp"

namespace orrery {

PipelineSchedule::PipelineSchedule(std::string its_name, const PipelineShape& shape,
                                   std::vector<std::vector<Chunk>> its_chunks)
    : name(std::move(its_name)),
      devices(shape.devices),
      micro_batches(shape.micro_batches),
      chunks(std::move(its_chunks)) {
  for (const auto& held : chunks)
    for (const Chunk& chunk : held) {
      stages = std::max(stages, chunk.stage + 1);
      pipes = std::max(pipes, chunk.pipe + 1);
    }
  holders_.resize(static_cast<std::size_t>(stages) * static_cast<std::size_t>(pipes));
  for (std::size_t device = 0; device < chunks.size(); ++device)
    for (std::size_t i = 0; i < chunks[device].size(); ++i) {
      const Chunk& chunk = chunks[device][i];
      holders_[static_cast<std::size_t>(chunk.pipe * stages + chunk.stage)] = {
          static_cast<int>(device), static_cast<int>(i)};
    }
}

Holder PipelineSchedule::holder(int stage, int pipe) const {
  if (stage < 0 || stage >= stages) return {};
  return holders_[static_cast<std::size_t>(pipe * stages + stage)];
}

Holder PipelineSchedule::neighbour(int device, const PipelineTask& task, int direction) const {
  if (task.work == Work::backward_weight) return {};
  const Chunk& chunk =
      chunks[static_cast<std::size_t>(device)][static_cast<std::size_t>(task.chunk)];
  const bool forward = task.work == Work::forward;
  return holder(chunk.stage + (forward ? direction : -direction), chunk.pipe);
}

std::vector<std::vector<Chunk>> one_stage_each(int devices) { return round_robin(devices, 1); }

std::vector<std::vector<Chunk>> round_robin(int devices, int chunks) {
  std::vector<std::vector<Chunk>> map(static_cast<std::size_t>(devices));
  for (int device = 0; device < devices; ++device)
    for (int chunk = 0; chunk < chunks; ++chunk)
      map[static_cast<std::size_t>(device)].push_back({device + chunk * devices, 0});
  return map;
}

std::vector<std::vector<Chunk>> v_shape(int devices) {
  std::vector<std::vector<Chunk>> map;
  for (int device = 0; device < devices; ++device)
    map.push_back({{device, 0}, {2 * devices - 1 - device, 0}});
  return map;
}

std::vector<std::vector<Chunk>> both_directions(int devices) {
  std::vector<std::vector<Chunk>> map;
  for (int device = 0; device < devices; ++device)
    map.push_back({{device, 0}, {devices - 1 - device, 1}});
  return map;
}

namespace {

// What a schedule asks of its shape, in the order in which objections are told.
struct Demands {
  const char* name;
  PipelineSchedule (*make)(const PipelineShape&);
  int stages_per_device = 1;  // 0: as many as chunks are asked for
  bool even_devices = false;
  enum class Batches { any, even, multiple_of_devices, one, at_least } batches = Batches::any;
  int at_least_times = 0, at_least_plus = 0;  // micro-batches >= times * devices + plus
};

using Batches = Demands::Batches;
const std::vector<Demands> schedule_demands{
    {"gpipe", gpipe},
    {"1f1b", one_forward_one_backward},
    {"interleaved-1f1b", interleaved, 0, false, Batches::multiple_of_devices},
    {"pipedream", pipedream, 1, false, Batches::one},
    {"pipedream-2bw", pipedream_2bw, 1, false, Batches::any, 1, 0},
    {"petra", petra},
    {"chimera", chimera, 1, true, Batches::multiple_of_devices},
    {"zb-h1", zero_bubble_h1},
    {"zb-h2", zero_bubble_h2, 1, false, Batches::any, 2, -1},
    {"zb-auto", zero_bubble_auto},
    {"zb-v", zero_bubble_v, 2, false, Batches::any, 2, -1},
    {"v-half", v_half, 2},
    {"v-min", v_min, 2},
    {"dualpipe", dualpipe, 1, true, Batches::even, 2, 0},
    {"dualpipev", dualpipev, 2, false, Batches::any, 2, 0},
};

const Demands* find(const std::string& name) {
  for (const Demands& d : schedule_demands)
    if (name == d.name) return &d;
  return nullptr;
}

}  // namespace

std::vector<std::string> schedule_kinds() {
  std::vector<std::string> names;
  for (const Demands& d : schedule_demands) names.emplace_back(d.name);
  return names;
}

std::int64_t stages_per_device(const std::string& name, std::int64_t chunks) {
  const Demands* d = find(name);
  return d == nullptr ? 1 : d->stages_per_device == 0 ? chunks : d->stages_per_device;
}

std::vector<Objection> objections(const std::string& name, const PipelineShape& shape) {
  const Demands* d = find(name);
  if (d == nullptr) return {{"schedule", fmt::format("unknown pipeline schedule '{}'", name), ""}};
  const int p = shape.devices, m = shape.micro_batches;
  std::vector<Objection> all;
  if (d->stages_per_device == 0 && shape.chunks < 2)
    all.push_back({"chunks", fmt::format("{} interleaves at least 2 chunks per device", name),
                   "use chunks: 2 or more, or 1f1b"});
  if (d->stages_per_device == 1 && shape.chunks != 1)
    all.push_back({"chunks", fmt::format("{} has one chunk per device and pipe", name),
                   "leave chunks out, or use interleaved-1f1b"});
  if (d->stages_per_device == 2 && shape.chunks != 1 && shape.chunks != 2)
    all.push_back({"chunks", fmt::format("{} has two chunks per device", name), "use 2"});
  if (d->even_devices && p % 2 != 0)
    all.push_back({"pipeline", fmt::format("{} needs an even number of devices, not {}", name, p),
                   fmt::format("use {} or {}", p - 1, p + 1)});
  const auto batches = [&](const std::string& what, const std::string& advice) {
    all.push_back({"micro_batches", fmt::format("{} needs {}, not {}", name, what, m), advice});
  };
  if (d->batches == Batches::multiple_of_devices && m % p != 0)
    batches(fmt::format("a multiple of {} micro-batches per step", p),
            fmt::format("use {} or {}", std::max(m / p, 1) * p, (m / p + 1) * p));
  if (d->batches == Batches::even && m % 2 != 0)
    batches("an even number of micro-batches per step", fmt::format("use {}", m + 1));
  if (d->batches == Batches::one && m != 1)
    batches("1 micro-batch per step, since it updates after each",
            "lower data.global_batch, or use pipedream-2bw");
  if (const int least = d->at_least_times * p + d->at_least_plus; m < least)
    batches(fmt::format("at least {} micro-batches per step", least),
            fmt::format("use {} or more", least));
  if (shape.vertical_sync && name != "pipedream")
    all.push_back({"vertical_sync", fmt::format("{} has no vertical sync", name),
                   "leave it out, or use pipedream"});
  if (shape.activation_limit != 0 && name != "zb-auto")
    all.push_back({"activation_limit", fmt::format("{} has no limit to choose", name),
                   "leave it out, or use zb-auto"});
  return all;
}

std::shared_ptr<const PipelineSchedule> make_schedule(const std::string& name,
                                                      const PipelineShape& shape) {
  static std::mutex mutex;
  static std::weak_ptr<const PipelineSchedule> latest;
  static std::string latest_name;
  static PipelineShape latest_shape;
  const std::lock_guard lock(mutex);
  if (name == latest_name && shape == latest_shape)
    if (auto schedule = latest.lock()) return schedule;
  std::string refusal;
  for (const Objection& o : objections(name, shape))
    refusal += (refusal.empty() ? "" : "; ") + o.text;
  if (!refusal.empty()) throw Error(Category::config, refusal);
  auto schedule = std::make_shared<const PipelineSchedule>(find(name)->make(shape));
  latest = schedule;
  latest_name = name;
  latest_shape = shape;
  return schedule;
}

}  // namespace orrery
