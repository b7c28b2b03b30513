// The activations of a stage, by what the blocks of the models keep.
#include <fmt/format.h>

#include <algorithm>

#include "algorithms/pipeline/timeline.hpp"
#include "scenarios/published/not_scored.hpp"
#include "scenarios/published/prediction.hpp"
#include "scenarios/training.hpp"

namespace orrery {

namespace {

// A layer of the case, in 16 bits, with dropout and attention that stores its scores, as sources of
// before flash attention had it.
TransformerShape layer_of(const ModelSpec& model, const MeasuredCase& c) {
  const auto i = [](std::int64_t v) { return static_cast<int>(v); };
  TransformerShape shape = transformer_shape(model.transformer);
  shape.layers = 1;
  shape.sequence = i(*c.seq_len);
  shape.micro_batch = i(*c.micro_batch);
  shape.tensor = i(std::max<std::int64_t>(c.tp.value_or(1), 1));
  shape.stored_attention = shape.dropout = true;
  return shape;
}

// Of one layer and micro-batch: its input, and what it keeps unless all of it is recomputed.
double layer_bytes(const TransformerShape& shape, bool full) {
  const Model model = make_transformer(shape);
  const Block& layer = *model.blocks[1];
  const std::int64_t inside = full ? 0 : layer.saved_elements() + layer.kept_elements();
  return static_cast<double>(bytes_of(layer.output_elements() + inside, shape.dtype).value);
}

// Layers of which the first device holds the activations of a micro-batch, counted as often as it
// holds one.
double layers_held(const ModelSpec& model, const MeasuredCase& c) {
  const auto count = [](const MeasuredCase::Count& given) {
    return static_cast<int>(std::max<std::int64_t>(given.value_or(1), 1));
  };
  PipelineShape shape{count(c.pp), 1};
  shape.chunks = count(c.vpp);
  const std::int64_t samples = std::int64_t{count(c.dp)} * *c.micro_batch;
  if (shape.devices > 1 && c.global_batch.value_or(0) < samples)
    throw NotScored("the micro-batches of a step are not stated");
  if (shape.devices > 1) shape.micro_batches = static_cast<int>(*c.global_batch / samples);
  const auto schedule = make_schedule(shape.chunks > 1 ? "interleaved-1f1b" : "1f1b", shape);
  return peak_activations(*schedule)[0] * static_cast<double>(model.layers()) / schedule->stages;
}

}  // namespace

void predict_memory(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                    const Machines&, Prediction& out) {
  const bool relative = c.activation_memory_rel.value_or(0) > 0;
  if (!relative && c.activation_gib.value_or(0) <= 0)
    throw NotScored("no memory of activations is stated");
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
  note(out.assumptions, "memory", "stored scores, dropout", "attention as before flash attention");
  if (relative) {
    out.unit = "of tensor parallelism alone";
    out.measured = *c.activation_memory_rel;
    out.predicted = bytes / whole;
    return;
  }
  out.unit = "GiB";
  out.measured = *c.activation_gib;
  out.predicted = bytes * layers_held(model, c) / (1 << 30);
}

}  // namespace orrery
