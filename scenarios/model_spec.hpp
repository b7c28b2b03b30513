// What a model is: exact dimensions and parameter counts, from our YAML or a Hugging Face
// config.json.
//
// A model is named by a file of scenarios/models (`mlp-bytes` is scenarios/models/mlp-bytes.yaml,
// `llama-3.2-1b` is scenarios/models/llama-3.2-1b/config.json) or by a path to either kind of file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "algorithms/models/fno.hpp"
#include "algorithms/models/parametrisation.hpp"
#include "algorithms/models/revnet.hpp"
#include "backend/core/config.hpp"

namespace orrery {

// A decoder-only transformer. Sizes are elements.
struct TransformerSpec {
  std::int64_t layers = 0, hidden = 0, heads = 0;
  std::int64_t kv_heads = 0;   // 0 in a file: as many as heads
  std::int64_t head_size = 0;  // 0 in a file: hidden / heads
  std::int64_t ffn = 0;        // 0 in a file: 4 hidden
  std::int64_t vocabulary = 0;
  std::int64_t max_positions = 0;   // 0: unlimited
  std::string norm = "rms";         // rms: a scale; layer: scale and shift
  std::string activation = "silu";  // silu, gelu, relu
  bool gated = true;                // three MLP matrices (SwiGLU and its kind), not two
  bool tied = false;                // the head is the embedding
  bool learned_positions = false;   // a table of max_positions rows
  bool qkv_bias = false, output_bias = false, mlp_bias = false, head_bias = false;
  bool qk_norm = false;          // one RMS norm of a head's size each for Q and K
  bool parallel_blocks = false;  // attention and MLP read the same input (GPT-NeoX)
  bool reversible = false;       // layers in two streams (Reformer)
  std::int64_t window = 0;       // tokens that attention looks back; 0: all
  double rope_theta = 10'000;    // base of the rotary embedding; concerns values only, as does
  double norm_epsilon = 1e-5;
  Parametrisation parametrisation = Parametrisation::standard;
  std::int64_t base_width = 1;  // of mu, which is the standard one at this width
  // A mixture of experts in the place of the MLP, in all layers but the first `dense_layers`.
  std::int64_t experts = 0;            // 0: none
  std::int64_t experts_per_token = 1;  // that the router chooses
  std::int64_t expert_ffn = 0;         // 0 in a file: ffn
  std::int64_t shared_ffn = 0;         // width of the MLP that all tokens pass besides
  std::int64_t dense_layers = 0;
  bool shared_gate = false;        // the shared MLP's output is scaled by a gate of its own
  std::string router = "softmax";  // softmax over the chosen; softmax-all over all; sigmoid
  // Latent attention (DeepSeek-AI 2024, arXiv 2405.04434): queries, keys and values come from
  // vectors of these ranks; head_size is that of queries and keys, of which `rope_head` turn.
  std::int64_t kv_rank = 0;  // 0: none
  std::int64_t q_rank = 0;   // 0: queries come from the hidden vector
  std::int64_t rope_head = 0, v_head = 0;

  std::int64_t embedding_parameters() const;  // table and learned positions
  std::int64_t layer_parameters() const;      // all layers together
  std::int64_t active_parameters() const;     // those that one token passes
  bool latent() const { return kv_rank > 0; }
  std::int64_t mixture_layers() const { return experts > 0 ? layers - dense_layers : 0; }
  std::int64_t head_parameters() const;  // final norm, and the output matrix unless tied
  std::int64_t parameters() const;       // shared ones once
  // Multiply-adds per token of the GEMMs of all layers, and of the head; and of attention's two
  // products per token and token that it sees, in all layers.
  std::int64_t layer_multiply_adds() const;
  std::int64_t attention_multiply_adds() const;
  std::int64_t head_multiply_adds() const { return hidden * vocabulary; }
  // What is wrong with a model of more than 1e15 parameters, whose counts could overflow; else "".
  std::string too_large() const;
};
void describe(Fields<TransformerSpec>& f);

// The byte-level model of algorithms/models/mlp.hpp: an embedding, `layers` hidden layers, a head.
struct MlpSpec {
  std::int64_t context = 0, embedding = 0, hidden = 0, layers = 0, vocabulary = 256;
  bool reversible = false;  // hidden layers but the first are couplings of two
  Parametrisation parametrisation = Parametrisation::standard;
  std::int64_t base_width = 1;  // of mu, which is the standard one at this width

  std::int64_t parameters() const;
  std::int64_t multiply_adds() const;  // of all GEMMs, per sample
  std::int64_t inner() const { return reversible ? 2 * layers - 1 : layers; }  // functions
};
void describe(Fields<MlpSpec>& f);

// Models whose shapes are their specifications; the micro-batches and the type come from the
// scenario. Of ResNets also the reversible ones.
void describe(Fields<ResnetShape>& f);
void describe(Fields<FnoShape>& f);

enum class ModelKind { transformer, mlp, resnet, fno };

struct ModelSpec {
  std::string name;
  std::string file;
  ModelKind kind = ModelKind::transformer;
  TransformerSpec transformer;  // when kind says so
  MlpSpec mlp;
  ResnetShape resnet;
  FnoShape fno;
  std::vector<std::string> warnings;  // what was guessed, for the user to see

  bool timing_only() const { return kind == ModelKind::fno; }  // it has no values
  // Samples are no sequences, and FLOPs are counted block by block.
  bool by_blocks() const { return kind == ModelKind::resnet || kind == ModelKind::fno; }
  std::int64_t parameters() const;
  std::int64_t active_parameters() const;
  std::int64_t layers() const;  // what pipeline stages divide
  // Roughly the activations that a layer, or the head, keeps of one token (transformer) or sample.
  double widest_activations() const;
};

// All names of scenarios/models below the data root, sorted.
std::vector<std::string> model_names(const std::string& data_root);

// Reads the model that `wanted` stands for. A path (with '/', or ending in .yaml or .json) is tried
// from the current folder, from `beside` (the scenario's folder) and from the data root; a folder
// means its config.json. Throws ConfigError: at `asked_at` when there is no such model, in the
// model's file for what is wrong there.
ModelSpec read_model(const std::string& wanted, const std::string& data_root,
                     const std::string& beside = "", const Mark& asked_at = {});

// From documents: ours (`kind: transformer | mlp | resnet | fno`, then the keys of the spec) and
// Hugging Face's.
ModelSpec model_from_yaml(const Document& document);
ModelSpec model_from_hugging_face(const Document& document);

// The first of these that is a file: `path`, beside/path, data_root/path; else "".
std::string find_file(const std::string& path, const std::string& beside,
                      const std::string& data_root);

}  // namespace orrery
