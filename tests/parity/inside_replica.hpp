// Small transformers whose ranks share layers or sequences, against the same model on one rank.
#pragma once

#include <array>
#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "tests/parity/small_transformers.hpp"
#include "tests/parity/worlds_agree.hpp"

namespace orrery {

// GPT-2 style, with a tied embedding, and parts that four ranks can share.
inline TransformerShape shared_gpt() {
  TransformerShape s = small_gpt();
  s.heads = s.kv_heads = 4;
  s.head_size = 4;
  s.ffn = 24;
  s.tied = true;
  s.sequence = 16;
  return s;
}

// Llama style, with grouped heads.
inline TransformerShape shared_llama() {
  TransformerShape s = as_llama(shared_gpt());
  s.heads = 8;
  return s;
}

// DeepSeek style: four experts, of which a token passes two, and a shared one in all layers but the
// first. None is dropped.
inline TransformerShape shared_mixture() {
  TransformerShape s = shared_llama();
  s.layers = 2;
  s.experts = 4;
  s.experts_per_token = 2;
  s.expert_ffn = 12;
  s.shared_ffn = 8;
  s.dense_layers = 1;
  s.capacity = 4;
  return s;
}

// GPT-NeoX style: attention and MLP side by side.
inline TransformerShape shared_neox() {
  TransformerShape s = shared_gpt();
  s.rotary = s.parallel_blocks = true;
  s.learned_positions = 0;
  s.tied = false;
  return s;
}

struct Plan {
  int tensor = 1, context = 1, data = 1, pipeline = 1;
  bool sequence_parallel = false;
  int expert = 1;  // divides data
};

// The global batch is 8 samples whatever the plan.
inline TrainingCase case_of(TransformerShape shape, const Plan& plan) {
  TrainingCase c;
  c.tensor = plan.tensor;
  c.context = plan.context;
  c.data = plan.data;
  c.pipeline = plan.pipeline;
  c.expert = plan.expert;
  shape.sequence_parallel = plan.sequence_parallel;
  c.transformer = shape;
  c.replica.micro_batches = 4 / plan.data;
  c.replica.optimizer = {.name = "adamw", .lr = 3e-4};
  c.ddp.clip_norm = 1;
  return c;
}

// 50 losses of every plan are those of one rank to 1e-5.
inline void check_follows_one_rank(const TransformerShape& shape,
                                   std::initializer_list<Plan> plans) {
  const Trained one = train_on_cpu(case_of(shape, {}));
  CHECK(one.losses.size() == usual_steps);
  CHECK((under_sanitizer || one.losses.back() < one.losses.front()));
  for (const Plan& plan : plans) {
    CAPTURE(plan.tensor);
    CAPTURE(plan.context);
    CAPTURE(plan.data);
    CAPTURE(plan.pipeline);
    CAPTURE(plan.sequence_parallel);
    CAPTURE(plan.expert);
    const Trained all = train_on_cpu(case_of(shape, plan));
    REQUIRE(all.losses.size() == one.losses.size());
    for (std::size_t i = 0; i < one.losses.size(); ++i)
      CHECK(std::fabs(all.losses[i] - one.losses[i]) < 1e-5 * one.losses[i]);
  }
}

// Calls and bytes that a rank sent over one group, by lane and kind.
using Sent = std::map<std::string, std::pair<std::int64_t, std::int64_t>>;
inline Sent sent_over(const RankReport& rank, const std::string& group) {
  Sent sent;
  for (const ChannelReport& channel : rank.channels)
    if (channel.group == group && channel.use.calls > 0)
      sent[channel.lane + " " + name(channel.use.kind)] = {
          static_cast<std::int64_t>(channel.use.calls), channel.use.bytes.value};
  return sent;
}

}  // namespace orrery
