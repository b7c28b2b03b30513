// Activation memory of layers, by what the models' blocks keep.
#include <fmt/format.h>

#include <algorithm>

#include "algorithms/models/transformer.hpp"
#include "scenarios/published/not_scored.hpp"
#include "scenarios/published/prediction.hpp"

namespace orrery {

namespace {

// A layer of the case, in 16 bits, with dropout and attention that stores its scores, as sources of
// before flash attention had it.
TransformerShape layer_of(const ModelSpec& model, const MeasuredCase& c) {
  const TransformerSpec& t = model.transformer;
  const auto i = [](std::int64_t v) { return static_cast<int>(v); };
  TransformerShape shape;
  shape.hidden = i(t.hidden);
  shape.heads = i(t.heads);
  shape.kv_heads = i(t.kv_heads);
  shape.head_size = i(t.head_size);
  shape.ffn = i(t.ffn);
  shape.vocabulary = i(t.vocabulary);
  shape.gated = t.gated;
  shape.sequence = i(c.seq_len.value_or(0));
  shape.micro_batch = i(c.micro_batch.value_or(0));
  shape.tensor = i(std::max<std::int64_t>(c.tp.value_or(1), 1));
  shape.stored_attention = shape.dropout = true;
  return shape;
}

// Of one layer and micro-batch: its input, and what it keeps unless all of it is recomputed.
double layer_bytes(const TransformerShape& shape, bool full) {
  const Model model = make_transformer(shape);
  const Block& layer = *model.blocks[1];
  return 2.0 *
         static_cast<double>(layer.output_elements() + (full ? 0 : layer.saved_elements()));
}

}  // namespace

void predict_memory(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                    Prediction& out) {
  const bool rel = c.activation_memory_rel.value_or(0) > 0;
  if (!rel && c.activation_gib.value_or(0) <= 0)
    throw NotScored("no activation memory was printed");
  if (c.seq_len.value_or(0) <= 0 || c.micro_batch.value_or(0) <= 0)
    throw NotScored("the tokens of a micro-batch are not stated");
  const ModelSpec model = case_model(file, c, aliases, out.assumptions);
  const std::string recompute =
      meaning(aliases.recompute, "recompute", word(c.recompute), out.assumptions);
  TransformerShape shape = layer_of(model, c);
  const double whole = layer_bytes(shape, false);  // tensor parallelism alone
  shape.sequence_parallel = c.sequence_parallel.value_or(false) && shape.tensor > 1;
  shape.recompute_attention = recompute == "selective";
  const double bytes = layer_bytes(shape, recompute == "full");
  note(out.assumptions, "memory", "stored scores, dropout",
       "attention as before flash attention, as the formulas of the source have it");
  if (rel) {
    out.unit = "of tensor parallelism alone";
    out.measured = *c.activation_memory_rel;
    out.predicted = bytes / whole;
    return;
  }
  // The first stage holds all layers once under 1F1B, and interleaved (p - 1) / (p v) times more.
  const double p = static_cast<double>(std::max<std::int64_t>(c.pp.value_or(1), 1));
  const double v = static_cast<double>(std::max<std::int64_t>(c.vpp.value_or(1), 1));
  out.unit = "GiB";
  out.measured = *c.activation_gib;
  out.predicted = bytes * static_cast<double>(model.layers()) *
                  (1 + (v > 1 ? (p - 1) / (p * v) : 0)) / (1 << 30);
}

}  // namespace orrery
