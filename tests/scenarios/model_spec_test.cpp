#include "scenarios/model_spec.hpp"

#include <doctest/doctest.h>

#include "backend/core/error.hpp"
#include "tests/scenarios/root.hpp"

using namespace orrery;

namespace {

ModelSpec hf(const std::string& json) {
  return model_from_hugging_face(Document::parse_text(json, "config.json"));
}

std::string message(const std::string& json) {
  try {
    hf(json);
  } catch (const ConfigError& e) {
    return e.messages.front().text + " | " + e.messages.front().suggestion;
  }
  return "";
}

}  // namespace

TEST_CASE("Llama 3.2 1B has 1,235,814,400 parameters and Llama 2 7B has 6,738,415,616") {
  const ModelSpec small = read_model("llama-3.2-1b", root);
  CHECK(small.name == "llama-3.2-1b");
  CHECK(small.parameters() == 1'235'814'400);
  CHECK(small.transformer.tied);
  CHECK(small.transformer.head_size == 64);
  CHECK(small.transformer.rope_theta == 500'000);
  CHECK(small.transformer.norm_epsilon == 1e-5);
  CHECK(small.layers() == 16);
  CHECK(small.warnings.empty());
  CHECK(read_model("llama-2-7b", root).parameters() == 6'738'415'616);
  CHECK(read_model("scenarios/models/llama-2-7b", root).parameters() == 6'738'415'616);
  CHECK(read_model("scenarios/models/llama-2-7b/config.json", root).name == "llama-2-7b");
}

TEST_CASE("published parameter counts of other families come out exactly") {
  // Llama 3 8B and 70B.
  CHECK(
      hf(R"({"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256})")
          .parameters() == 8'030'261'248);
  CHECK(
      hf(R"({"model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
      "num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256})")
          .parameters() == 70'553'706'496);
  // Mistral 7B v0.1.
  const ModelSpec mistral =
      hf(R"({"model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32,
      "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000,
      "sliding_window": 4096, "tie_word_embeddings": false})");
  CHECK(mistral.parameters() == 7'241'732'096);
  CHECK(mistral.transformer.window == 4096);
  // Qwen 2 7B and 0.5B (tied), with biases on Q, K and V.
  CHECK(
      hf(R"({"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
      "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "use_sliding_window": false,
      "sliding_window": 131072})")
          .parameters() == 7'615'616'512);
  CHECK(
      hf(R"({"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
      "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": true})")
          .parameters() == 494'032'768);
  // GPT-2 and GPT-2 XL, with their own names of the keys.
  const ModelSpec gpt2 =
      hf(R"({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": null,
      "n_positions": 1024, "vocab_size": 50257, "activation_function": "gelu_new"})");
  CHECK(gpt2.parameters() == 124'439'808);
  CHECK(gpt2.transformer.activation == "gelu");
  CHECK(
      hf(R"({"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024,
      "vocab_size": 50257})")
          .parameters() == 1'557'611'200);
  // GPT-Neo 125M and GPT-NeoX 20B.
  CHECK(hf(R"({"model_type": "gpt_neo", "hidden_size": 768, "num_layers": 12, "num_heads": 12,
      "intermediate_size": null, "max_position_embeddings": 2048, "vocab_size": 50257})")
            .parameters() == 125'198'592);
  CHECK(
      hf(R"({"model_type": "gpt_neox", "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64,
      "intermediate_size": 24576, "max_position_embeddings": 2048, "vocab_size": 50432})")
          .parameters() == 20'554'567'680);
}

TEST_CASE("an unknown model_type is taken for a llama and says which keys were used") {
  const ModelSpec m = hf(
      R"({"model_type": "panda", "hidden_size": 64, "n_layer": 2, "num_heads": 4, "vocab_size": 100})");
  REQUIRE(m.warnings.size() == 1);
  CHECK(
      m.warnings[0] ==
      "model_type 'panda' is not known and was taken for a llama; used were hidden_size, n_layer, "
      "num_heads, vocab_size");
  CHECK(m.transformer.ffn == 256);
}

TEST_CASE("a config.json that lacks dimensions, or has experts in every other layer, is refused") {
  CHECK(
      message(
          R"({"model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 10})") ==
      "config.json does not say the hidden size | it is called hidden_size or n_embd");
  CHECK(
      message(
          R"({"model_type": "llama", "hidden_size": 10, "num_hidden_layers": 2, "num_attention_heads": 4,
      "vocab_size": 10})")
          .find("4 attention heads do not divide the hidden size 10") == 0);
  CHECK(
      message(
          R"({"model_type": "mixtral", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
      "vocab_size": 10, "num_local_experts": 8})")
          .find("config.json does not say the experts that a token passes") == 0);
  CHECK(
      message(
          R"({"model_type": "qwen3_moe", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
      "vocab_size": 10, "num_experts": 8, "num_experts_per_tok": 2, "decoder_sparse_step": 2})")
          .find("not available yet: mixtures of experts in some layers between others") == 0);
  CHECK(message(R"({"hidden_size": "many"})").find("hidden_size: expected a whole number") == 0);
}

TEST_CASE(
    "models in YAML: an MLP counts its weights and biases, a transformer fills in what follows "
    "from the rest") {
  const ModelSpec mlp = read_model("mlp-bytes", root);
  CHECK(mlp.kind == ModelKind::mlp);
  // Embedding; 16 * 16 -> 128; three of 128 -> 128; head: weights and biases.
  CHECK(mlp.parameters() == 256 * 16 + (256 * 128 + 128) + 3 * (128 * 128 + 128) + 128 * 256 + 256);
  const ModelSpec t = model_from_yaml(Document::parse_text(
      "name: t\nkind: transformer\nlayers: 2\nhidden: 64\nheads: 4\nvocabulary: 100\n", "t.yaml"));
  CHECK(t.transformer.kv_heads == 4);
  CHECK(t.transformer.head_size == 16);
  CHECK(t.transformer.ffn == 256);
  try {
    model_from_yaml(Document::parse_text(
        "name: t\nkind: mlp\ncontext: 8\nembeding: 4\nhidden: 8\nlayers: 1\n", "t.yaml"));
    FAIL("no error");
  } catch (const ConfigError& e) {
    bool unknown = false;
    for (const ConfigMessage& m : e.messages)
      unknown = unknown || (m.line == 4 && m.suggestion == "did you mean 'embedding'?");
    CHECK(unknown);
  }
}

TEST_CASE("residual networks and Fourier operators are described by their shapes") {
  const ModelSpec resnet = read_model("resnet-50", root);
  CHECK(resnet.parameters() == 25'557'032);
  CHECK(resnet.layers() == 16);
  CHECK(resnet.by_blocks());
  CHECK(!resnet.timing_only());
  const ModelSpec revnet = read_model("revnet-18-cifar", root);
  CHECK(revnet.layers() == 8);
  // ResNet-18's, and another half of the stem and of the head.
  CHECK(revnet.parameters() == 11'173'962 + (64 * 27 + 2 * 64) + 512 * 10);
  const ModelSpec fno = read_model("fno-2d", root);
  CHECK(fno.parameters() == 4 * (589'824 + 1'056) + 64 + 33);
  CHECK(fno.layers() == 4);
  const auto first = [](const std::string& text) {
    try {
      model_from_yaml(Document::parse_text(text, "t.yaml"));
    } catch (const ConfigError& e) {
      return e.messages.front().text;
    }
    return std::string();
  };
  CHECK(first("name: r\nkind: resnet\ndepth: 18\nblocks: [1, 1, 1, 1, 1, 1, 1]\n") ==
        "blocks: 7 stages are more than any network has");
  CHECK(first("name: r\nkind: resnet\ndepth: 20\n") == "depth: there is no ResNet of depth 20");
  CHECK(first("name: f\nkind: fno\nwidth: 8\nlayers: 1\ngrid: [8]\nmodes: [5]\n") ==
        "modes: 8 points have at most 4 modes, not 5");
}

TEST_CASE("models whose sizes would overflow a count are refused, in either file") {
  CHECK(message(R"({"n_embd": 1000000, "n_layer": 100000, "n_head": 100000, "head_dim": 100000,
      "vocab_size": 10, "n_positions": 8, "model_type": "gpt2"})") ==
        "about 4e+21 parameters are more than any model has | ");
  const auto first = [](const std::string& text) {
    try {
      model_from_yaml(Document::parse_text(text, "t.yaml"));
    } catch (const ConfigError& e) {
      return e.messages.front().text;
    }
    return std::string();
  };
  CHECK(first("name: t\nkind: transformer\nlayers: 100000\nhidden: 1000000\nheads: 1\n"
              "vocabulary: 10\n") == "about 2e+18 parameters are more than any model has");
  CHECK(first("name: f\nkind: fno\nwidth: 8\nlayers: 1\ngrid: [1000000, 1000000, 1000000]\n"
              "modes: [5, 5, 5]\n") == "grid: 1e+18 points are more than any grid has");
}

TEST_CASE("an unknown model is reported with the nearest name") {
  try {
    read_model("llama-3.2-1", root);
    FAIL("no error");
  } catch (const ConfigError& e) {
    CHECK(e.messages[0].text == "unknown model 'llama-3.2-1'");
    CHECK(e.messages[0].suggestion == "did you mean 'llama-3.2-1b'?");
  }
  CHECK(model_names(root).size() >= 3);
}
