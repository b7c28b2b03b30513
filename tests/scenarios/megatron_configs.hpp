// The models of Korthikanti et al. 2022 (arXiv 2205.05198, table 3) as config.json in GPT-2's keys.
#pragma once

#include <string>

#include "scenarios/model_spec.hpp"

namespace orrery {

inline ModelSpec megatron_from_config(const std::string& name) {
  std::string sizes = R"("n_embd": 6144, "n_layer": 48, "n_head": 64)";
  if (name == "megatron-175b") sizes = R"("n_embd": 12288, "n_layer": 96, "n_head": 96)";
  if (name == "megatron-530b") sizes = R"("n_embd": 20480, "n_layer": 105, "n_head": 128)";
  if (name == "megatron-1t") sizes = R"("n_embd": 25600, "n_layer": 128, "n_head": 160)";
  return model_from_hugging_face(Document::parse_text(
      R"({"model_type": "gpt2", "n_positions": 2048, "vocab_size": 51200, )" + sizes + "}",
      "config.json"));
}

}  // namespace orrery
