#include "scenarios/cli/consensus.hpp"

#include <cstring>

#include "algorithms/replica.hpp"
#include "backend/cpu/bodies.hpp"
#include "backend/cpu/world.hpp"

namespace orrery::cli {

namespace {

float number_at(const std::byte* at, Dtype type) {
  float wide = 0;
  std::uint16_t narrow = 0;
  if (type == Dtype::fp32) return std::memcpy(&wide, at, sizeof wide), wide;
  std::memcpy(&narrow, at, sizeof narrow);
  return type == Dtype::bf16 ? from_bf16(narrow) : from_fp16(narrow);
}

void put_number(std::byte* at, Dtype type, float value) {
  if (type == Dtype::fp32) {
    std::memcpy(at, &value, sizeof value);
    return;
  }
  const std::uint16_t narrow = type == Dtype::bf16 ? to_bf16(value) : to_fp16(value);
  std::memcpy(at, &narrow, sizeof narrow);
}

}  // namespace

void Consensus::listen(TrainingHooks& hooks) {
  if (!scenario_.data.evaluate_every) return;
  hooks.evaluate = [this](std::int64_t step, const std::vector<Checkpoint>& ranks) {
    add(step, ranks);
  };
}

void Consensus::add(std::int64_t step, const std::vector<Checkpoint>& ranks) {
  const Dtype type = scenario_.precision.parameters;
  const auto each = static_cast<std::size_t>(size_of(type));
  std::vector<std::byte> mean = ranks.front().fields.at("parameters");
  for (std::size_t at = 0; at < mean.size(); at += each) {
    double sum = 0;
    for (const Checkpoint& rank : ranks)
      sum += static_cast<double>(number_at(rank.fields.at("parameters").data() + at, type));
    put_number(mean.data() + at, type, static_cast<float>(sum / static_cast<double>(ranks.size())));
  }
  means_[step].fields["parameters"] = std::move(mean);
}

std::vector<ConsensusRow> Consensus::losses() const {
  std::vector<ConsensusRow> rows;
  if (means_.empty()) return rows;
  const auto text = held_out_text(scenario_);
  WorldOptions options;
  options.seed = scenario_.run.seed;
  options.real_values = true;
  options.bodies = &cpu_bodies();
  make_cpu_world(std::move(options))->run([&](Rank& rank) {
    ReplicaOptions alone = replica_options(scenario_);
    alone.sharding = {};
    Replica replica(rank, make_model(scenario_, text), alone);
    Tensor values = replica.flat().all_values();
    for (const auto& [step, mean] : means_) {
      Loader(rank, mean).field("parameters", values);
      rows.push_back({step, replica.loss_on(text)});
    }
  });
  return rows;
}

}  // namespace orrery::cli
