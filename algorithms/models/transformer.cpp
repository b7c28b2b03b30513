#include "algorithms/models/transformer.hpp"

#include <algorithm>
#include <array>

#include "algorithms/models/reversible.hpp"
#include "algorithms/models/transformer_blocks.hpp"

namespace orrery {

std::vector<std::string> TransformerShape::indivisible() const {
  std::vector<std::string> out;
  const auto check = [&out](std::int64_t size, std::int64_t parts, const std::string& what) {
    if (size % parts != 0)
      out.push_back(std::to_string(size) + " " + what + " do not divide over " +
                    std::to_string(parts) + " ranks");
  };
  check(heads, tensor, "attention heads");
  check(kv_heads, tensor, "heads of keys and values");
  if (experts == 0 || dense_layers > 0) check(ffn, tensor, "columns of the MLP");
  if (experts > 0) {
    check(expert_ffn, tensor, "columns of an expert");
    check(shared_ffn, tensor, "columns of the shared experts");
    check(experts, expert, "experts");
  } else if (expert > 1) {
    out.emplace_back("a model without experts has none to divide over ranks");
  }
  check(vocabulary, tensor, "rows of the vocabulary");
  const bool zigzag = part(0).zigzag;
  const std::int64_t parts = zigzag ? 2 * context : context;
  if (sequence % parts != 0)
    out.push_back(std::to_string(sequence) + " tokens of a sequence do not divide into " +
                  std::to_string(parts) + " parts");
  else if (sequence_parallel)
    check(length(), tensor, "tokens of a sequence");
  if (context > 1 && context_algorithm == ContextAlgorithm::ulysses) {
    check(heads, tensor * context, "attention heads");
    check(kv_heads, tensor * context, "heads of keys and values");
  }
  if (context > 1 && stored_attention)
    out.push_back("attention that stores its scores needs whole sequences on one rank");
  if (recompute_every_second &&
      (experts > 0 || qk_norm || reversible || stored_attention || recompute_attention || dropout))
    out.push_back(
        "recomputation of every second product knows layers with an MLP, fused attention that is "
        "kept, no norms of queries and keys, and no dropout");
  if (latent() && (recompute_every_second || reversible || qk_norm || qkv_bias || mu()))
    out.emplace_back(
        "latent attention knows no recomputation of every second product, reversible layers, norms "
        "of queries and keys of a head's size, biases of theirs, or the mu parametrisation");
  if (latent() && (kv_heads != heads || v_head > head_size || rope_head >= head_size || !rotary))
    out.emplace_back(
        "latent attention has as many heads of keys as of queries, of which a part turns, and "
        "values that are no wider");
  if (gathers_fp8 && (!sequence_parallel || tensor == 1 || products != Products::fp8_tensor ||
                      experts > 0 || latent()))
    out.emplace_back(
        "tokens are gathered in fp8 under sequence parallelism, for products in fp8 with a scale "
        "per tensor, without experts or latent attention");
  if (qk_norm && reversible)
    out.emplace_back("reversible layers have no norms of queries and keys");
  if (context > 1 && !causal) out.push_back("attention to later tokens needs them on one rank");
  return out;
}

Model make_transformer(const TransformerShape& shape, std::shared_ptr<const std::string> text) {
  if (text != nullptr && shape.vocabulary < 256)
    throw Error(Category::config, "a text has 256 different bytes; the model's vocabulary has " +
                                      std::to_string(shape.vocabulary));
  if (text != nullptr &&
      (shape.stored_attention || shape.dropout || shape.products == Products::nvfp4))
    throw Error(Category::config,
                "not available yet: values of stored attention scores, dropout and NVFP4 products");
  if (text != nullptr && shape.recompute_every_second && shape.products != Products::as_stored)
    throw Error(Category::config,
                "not available yet: values of fp8 products of which every second runs again, by "
                "columns, whose scales would be others");
  if (!shape.rotary && shape.learned_positions > 0 && shape.learned_positions < shape.sequence)
    throw Error(Category::config, "a sequence of " + std::to_string(shape.sequence) +
                                      " tokens needs as many learned positions; there are " +
                                      std::to_string(shape.learned_positions));
  if (shape.mu() && shape.experts > 0)
    throw Error(Category::config,
                "not available yet: the mu parametrisation of a mixture of experts");
  if (const std::vector<std::string> reasons = shape.indivisible(); !reasons.empty()) {
    std::string all;
    for (const std::string& reason : reasons) all += (all.empty() ? "" : "; ") + reason;
    throw Error(Category::config, all);
  }
  Model model;
  model.name = "transformer";
  model.dtype = shape.dtype;
  model.micro_batch = shape.micro_batch;
  model.tokens_per_sample = model.targets_per_sample = shape.sequence;
  model.part = shape.part(0);
  model.text = std::move(text);
  model.blocks.push_back(make_transformer_embedding(shape));
  const std::int64_t stream = shape.tokens() * shape.hidden;
  const std::shared_ptr<Block> layer =
      shape.reversible ? make_reversible_layer(shape) : make_transformer_layer(shape);
  TransformerShape plain = shape;
  plain.experts = 0;
  const std::shared_ptr<Block> dense =
      shape.experts > 0 && shape.dense_layers > 0 ? make_transformer_layer(plain) : layer;
  if (shape.reversible) model.blocks.push_back(make_doubling(stream, shape.dtype));
  for (int i = 0; i < shape.layers; ++i)
    model.blocks.push_back(i < shape.dense_layers ? dense : layer);
  if (shape.reversible) model.blocks.push_back(make_averaging(stream, shape.dtype));
  model.blocks.push_back(make_transformer_head(shape));
  return model;
}

}  // namespace orrery
