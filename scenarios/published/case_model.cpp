#include <fmt/format.h>

#include <algorithm>

#include "backend/core/text.hpp"
#include "scenarios/published/not_scored.hpp"
#include "scenarios/published/prediction.hpp"

namespace orrery {

namespace {

Node yes_no(bool value) { return Node::scalar(value ? "true" : "false"); }
const ModelFamily& family_of(const std::string& model, const AliasTable& aliases) {
  if (const ModelFamily* family = find_alias(aliases.models, model)) return *family;
  throw NotScored(fmt::format("model '{}' has no alias", model));
}

// GPT-2's vocabulary as Megatron-LM pads it: to a multiple of 128 per GPU of a tensor group.
std::int64_t padded_vocabulary(std::int64_t tensor) {
  constexpr std::int64_t gpt2 = 50'257;
  const std::int64_t unit = 128 * std::max<std::int64_t>(tensor, 1);
  return (gpt2 + unit - 1) / unit * unit;
}

}  // namespace

ModelSpec case_model(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                     std::vector<Assumption>& notes) {
  if (c.experts.value_or(1) > 1 || c.ep.value_or(1) > 1)
    throw NotScored("the experts of a case are not read yet");
  if (!word(c.attention).empty())
    throw NotScored(fmt::format("not available yet: attention '{}'", word(c.attention)));
  std::vector<std::string> missing;
  for (const auto& [name, size] : {std::pair{"layers", c.layers},
                                   {"hidden", c.hidden},
                                   {"heads", c.heads},
                                   {"seq_len", c.seq_len}})
    if (size.value_or(0) == 0) missing.emplace_back(name);
  if (!missing.empty())
    throw NotScored(fmt::format("the model's {} {} not stated", join(missing, ", "),
                                missing.size() == 1 ? "is" : "are"));
  const std::string model = word(c.model);
  const ModelFamily& family = family_of(model, aliases);
  note(notes, "model", family.means, "what the source does not print is as in this family");
  std::int64_t vocabulary = c.vocab.value_or(0);
  if (vocabulary == 0) {
    vocabulary = padded_vocabulary(c.tp.value_or(1));
    note(notes, "vocab", std::to_string(vocabulary), "GPT-2's, padded as Megatron-LM does");
  }
  Node spec = Node::map();
  spec.add("name", Node::scalar(model.empty() ? family.means : model, true));
  spec.add("kind", Node::scalar("transformer"));
  spec.add("layers", Node::number(*c.layers));
  spec.add("hidden", Node::number(*c.hidden));
  spec.add("heads", Node::number(*c.heads));
  spec.add("kv_heads", Node::number(size_of(c.kv_heads, c).value_or(0)));
  spec.add("ffn", Node::number(size_of(c.ffn_hidden, c).value_or(0)));
  spec.add("vocabulary", Node::number(vocabulary));
  if (family.learned_positions) spec.add("max_positions", Node::number(*c.seq_len));
  spec.add("norm", Node::scalar(family.norm));
  spec.add("activation", Node::scalar(c.swiglu.value_or(false) ? "silu" : family.activation));
  spec.add("gated", yes_no(c.swiglu.value_or(family.gated)));
  spec.add("tied", yes_no(family.tied));
  spec.add("learned_positions", yes_no(family.learned_positions));
  for (const char* bias : {"qkv_bias", "output_bias", "mlp_bias"})
    spec.add(bias, yes_no(family.biases));
  try {
    return model_from_yaml(Document::parse_text(to_yaml(spec), file.name));
  } catch (const ConfigError& error) {
    throw NotScored(one_sentence(error));
  }
}

}  // namespace orrery
