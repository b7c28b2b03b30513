// Hugging Face's config.json as a TransformerSpec. Only the architecture is read; what concerns
// generation, dropout or positions beyond their number changes neither size nor time.
#include <fmt/format.h>

#include <algorithm>

#include "backend/core/text.hpp"
#include "scenarios/model_spec.hpp"

namespace orrery {

namespace {

using Count = std::optional<std::int64_t>;

// All spellings that the known families use (huggingface/transformers,
// src/transformers/models/*/configuration_*.py).
struct HuggingFace {
  std::optional<std::string> model_type, hidden_act, activation_function;
  Count hidden_size, n_embd;
  Count num_hidden_layers, num_layers, n_layer;
  Count num_attention_heads, num_heads, n_head;
  Count num_key_value_heads, head_dim;
  Count intermediate_size, n_inner;
  Count vocab_size;
  Count max_position_embeddings, n_positions;
  Count sliding_window, window_size;
  std::optional<bool> tie_word_embeddings, attention_bias, mlp_bias, use_sliding_window,
      use_parallel_residual;
  Count num_local_experts, num_experts, n_routed_experts;
  Count num_experts_per_tok, moe_intermediate_size, n_shared_experts, first_k_dense_replace;
  Count shared_expert_intermediate_size, moe_layer_freq, decoder_sparse_step;
  Count q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
  std::optional<bool> norm_topk_prob;
  std::optional<std::string> scoring_func;
  std::optional<double> rope_theta, rotary_emb_base, rms_norm_eps, layer_norm_epsilon,
      layer_norm_eps;
};

void describe(Fields<HuggingFace>& f) {
  using H = HuggingFace;
  constexpr std::int64_t most = 1'000'000'000;
  f.field("model_type", &H::model_type);
  f.field("hidden_act", &H::hidden_act);
  f.field("activation_function", &H::activation_function);
  f.field("hidden_size", &H::hidden_size).between(1, 1'000'000);
  f.field("n_embd", &H::n_embd).between(1, 1'000'000);
  for (auto [name, member] : {std::pair{"num_hidden_layers", &H::num_hidden_layers},
                              {"num_layers", &H::num_layers},
                              {"n_layer", &H::n_layer},
                              {"num_attention_heads", &H::num_attention_heads},
                              {"num_heads", &H::num_heads},
                              {"n_head", &H::n_head},
                              {"num_key_value_heads", &H::num_key_value_heads},
                              {"head_dim", &H::head_dim}})
    f.field(name, member).between(1, 100'000);
  f.field("intermediate_size", &H::intermediate_size).between(1, 10'000'000);
  f.field("n_inner", &H::n_inner).between(1, 10'000'000);
  f.field("vocab_size", &H::vocab_size).between(1, 10'000'000);
  f.field("max_position_embeddings", &H::max_position_embeddings).between(1, most);
  f.field("n_positions", &H::n_positions).between(1, most);
  f.field("sliding_window", &H::sliding_window).between(1, most);
  f.field("window_size", &H::window_size).between(1, most);
  f.field("tie_word_embeddings", &H::tie_word_embeddings);
  f.field("attention_bias", &H::attention_bias);
  f.field("mlp_bias", &H::mlp_bias);
  f.field("use_sliding_window", &H::use_sliding_window);
  f.field("use_parallel_residual", &H::use_parallel_residual);
  f.field("rope_theta", &H::rope_theta).positive();
  f.field("rotary_emb_base", &H::rotary_emb_base).positive();
  for (auto [name, member] : {std::pair{"rms_norm_eps", &H::rms_norm_eps},
                              {"layer_norm_epsilon", &H::layer_norm_epsilon},
                              {"layer_norm_eps", &H::layer_norm_eps}})
    f.field(name, member).positive();
  for (auto [name, member] : {std::pair{"num_local_experts", &H::num_local_experts},
                              {"num_experts", &H::num_experts},
                              {"n_routed_experts", &H::n_routed_experts},
                              {"num_experts_per_tok", &H::num_experts_per_tok},
                              {"n_shared_experts", &H::n_shared_experts},
                              {"first_k_dense_replace", &H::first_k_dense_replace},
                              {"moe_layer_freq", &H::moe_layer_freq},
                              {"decoder_sparse_step", &H::decoder_sparse_step},
                              {"qk_nope_head_dim", &H::qk_nope_head_dim},
                              {"qk_rope_head_dim", &H::qk_rope_head_dim},
                              {"v_head_dim", &H::v_head_dim}})
    f.field(name, member).between(0, 100'000);
  for (auto [name, member] :
       {std::pair{"moe_intermediate_size", &H::moe_intermediate_size},
        {"shared_expert_intermediate_size", &H::shared_expert_intermediate_size},
        {"q_lora_rank", &H::q_lora_rank},
        {"kv_lora_rank", &H::kv_lora_rank}})
    f.field(name, member).between(0, 10'000'000);
  f.field("norm_topk_prob", &H::norm_topk_prob);
  f.field("scoring_func", &H::scoring_func);
}

// Takes values by any of their spellings and remembers which were used.
class Picker {
 public:
  explicit Picker(Problems& problems) : problems_(problems) {}
  std::int64_t need(const char* what,
                    std::initializer_list<std::pair<const char*, const Count*>> spellings) {
    if (const Count found = maybe(spellings)) return *found;
    std::vector<std::string> names;
    for (const auto& [name, value] : spellings) names.emplace_back(name);
    problems_.add("", fmt::format("config.json does not say {}", what),
                  fmt::format("it is called {}", join(names, " or ")));
    return 1;
  }
  Count maybe(std::initializer_list<std::pair<const char*, const Count*>> spellings) {
    for (const auto& [name, value] : spellings)
      if (*value) return used_.emplace_back(name), *value;
    return std::nullopt;
  }
  std::string used() const { return join(used_, ", "); }

 private:
  Problems& problems_;
  std::vector<std::string> used_;
};

std::string activation_of(const HuggingFace& h, const std::string& fallback) {
  const std::string name = h.hidden_act.value_or(h.activation_function.value_or(fallback));
  if (name.find("gelu") != std::string::npos) return "gelu";
  if (name.find("silu") != std::string::npos || name.find("swish") != std::string::npos)
    return "silu";
  return name.find("relu") != std::string::npos ? "relu" : fallback;
}

// Norms, biases and ties of a family: defaults of its configuration and model code. False for an
// unknown family, which is taken for a llama.
bool apply_family(const std::string& type, const HuggingFace& h, TransformerSpec& t) {
  const bool qwen3 = type == "qwen3" || type == "qwen3_moe";
  const bool qwen2 = type == "qwen2" || type == "qwen2_moe";
  const bool llama = type == "llama" || type == "mistral" || type == "mixtral" ||
                     type == "deepseek_v2" || type == "deepseek_v3" || qwen2 || qwen3;
  const bool gpt = type == "gpt2" || type == "gpt_neo" || type == "gpt_neox";
  t.activation = activation_of(h, gpt ? "gelu" : "silu");
  t.tied = h.tie_word_embeddings.value_or(type == "gpt2" || type == "gpt_neo");
  t.rope_theta = h.rope_theta.value_or(h.rotary_emb_base.value_or(t.rope_theta));
  t.norm_epsilon = h.rms_norm_eps.value_or(
      h.layer_norm_epsilon.value_or(h.layer_norm_eps.value_or(t.norm_epsilon)));
  if (gpt) {
    t.norm = "layer";
    t.gated = false;
    t.qkv_bias = type != "gpt_neo" && h.attention_bias.value_or(true);
    t.output_bias = h.attention_bias.value_or(true);
    t.mlp_bias = true;
    t.learned_positions = type != "gpt_neox";
    t.parallel_blocks = type == "gpt_neox" && h.use_parallel_residual.value_or(true);
    return true;
  }
  // In Llama's code attention_bias covers the output projection too; Qwen 2 always has biases on Q,
  // K and V alone.
  t.qkv_bias = qwen2 || h.attention_bias.value_or(false);
  t.output_bias = !qwen2 && h.attention_bias.value_or(false);
  t.mlp_bias = h.mlp_bias.value_or(false);
  t.qk_norm = qwen3;
  const bool windowed =
      type == "mistral" || type == "mixtral" || h.use_sliding_window.value_or(false);
  t.window = windowed ? h.sliding_window.value_or(0) : 0;
  return llama;
}

// A mixture of experts, by the names of Mixtral, of Qwen and of DeepSeek.
void apply_experts(const std::string& type, const HuggingFace& h, Picker& pick, Problems& problems,
                   TransformerSpec& t) {
  t.experts = pick.maybe({{"num_local_experts", &h.num_local_experts},
                          {"num_experts", &h.num_experts},
                          {"n_routed_experts", &h.n_routed_experts}})
                  .value_or(0);
  if (t.experts <= 1) {
    t.experts = 0;
    return;
  }
  for (const auto& [key, every] : {std::pair{"moe_layer_freq", h.moe_layer_freq},
                                   {"decoder_sparse_step", h.decoder_sparse_step}})
    if (every.value_or(1) != 1)
      problems.add(key, "not available yet: mixtures of experts in some layers between others");
  t.experts_per_token = pick.need("the experts that a token passes",
                                  {{"num_experts_per_tok", &h.num_experts_per_tok}});
  if (t.experts_per_token > t.experts)
    problems.add("num_experts_per_tok",
                 fmt::format("{} of {} experts", t.experts_per_token, t.experts));
  t.expert_ffn = h.moe_intermediate_size.value_or(t.ffn);
  t.shared_ffn =
      h.shared_expert_intermediate_size.value_or(h.n_shared_experts.value_or(0) * t.expert_ffn);
  t.shared_gate = type == "qwen2_moe";
  t.dense_layers = std::min(h.first_k_dense_replace.value_or(0), t.layers);
  const bool sigmoid = h.scoring_func.value_or("") == "sigmoid";
  const bool normalised = h.norm_topk_prob.value_or(type == "mixtral");
  t.router = sigmoid ? "sigmoid" : normalised ? "softmax" : "softmax-all";
}

void apply_latent_attention(const HuggingFace& h, Problems& problems, TransformerSpec& t) {
  t.kv_rank = h.kv_lora_rank.value_or(0);
  if (t.kv_rank == 0) return;
  t.q_rank = h.q_lora_rank.value_or(0);
  t.rope_head = h.qk_rope_head_dim.value_or(0);
  t.v_head = h.v_head_dim.value_or(0);
  t.head_size = h.qk_nope_head_dim.value_or(0) + t.rope_head;
  if (t.rope_head == 0 || t.v_head == 0 || t.head_size == t.rope_head)
    problems.add("kv_lora_rank", "config.json does not say the sizes of a head",
                 "they are called qk_nope_head_dim, qk_rope_head_dim and v_head_dim");
}

}  // namespace

ModelSpec model_from_hugging_face(const Document& document) {
  Problems problems(document);
  const auto h = read<HuggingFace>(document, problems, {Sources::optional, UnknownKeys::ignore});
  problems.throw_if_any();
  Picker pick(problems);
  ModelSpec model;
  TransformerSpec& t = model.transformer;
  t.hidden = pick.need("the hidden size", {{"hidden_size", &h.hidden_size}, {"n_embd", &h.n_embd}});
  t.layers = pick.need("the number of layers", {{"num_hidden_layers", &h.num_hidden_layers},
                                                {"num_layers", &h.num_layers},
                                                {"n_layer", &h.n_layer}});
  t.heads =
      pick.need("the number of attention heads", {{"num_attention_heads", &h.num_attention_heads},
                                                  {"num_heads", &h.num_heads},
                                                  {"n_head", &h.n_head}});
  t.vocabulary = pick.need("the size of the vocabulary", {{"vocab_size", &h.vocab_size}});
  t.kv_heads = pick.maybe({{"num_key_value_heads", &h.num_key_value_heads}}).value_or(t.heads);
  t.head_size = pick.maybe({{"head_dim", &h.head_dim}}).value_or(t.hidden / t.heads);
  t.ffn = pick.maybe({{"intermediate_size", &h.intermediate_size}, {"n_inner", &h.n_inner}})
              .value_or(4 * t.hidden);
  t.max_positions = pick.maybe({{"max_position_embeddings", &h.max_position_embeddings},
                                {"n_positions", &h.n_positions}})
                        .value_or(0);
  const std::string type = h.model_type.value_or("");
  if (!apply_family(type, h, t))
    model.warnings.push_back(fmt::format(
        "model_type '{}' is not known and was taken for a llama; used were {}", type, pick.used()));
  apply_experts(type, h, pick, problems, t);
  apply_latent_attention(h, problems, t);
  if (!h.head_dim && !t.latent() && t.hidden % t.heads != 0)
    problems.add(
        "", fmt::format("{} attention heads do not divide the hidden size {}", t.heads, t.hidden),
        "head_dim would say how large they are");
  if (t.heads % t.kv_heads != 0)
    problems.add("num_key_value_heads",
                 fmt::format("{} key-value heads do not divide {} heads", t.kv_heads, t.heads));
  if (t.learned_positions && t.max_positions == 0)
    problems.add("", "config.json does not say the number of positions",
                 "it is called max_position_embeddings or n_positions");
  if (const std::string text = t.too_large(); !text.empty()) problems.add("", text);
  problems.throw_if_any();
  return model;
}

}  // namespace orrery
