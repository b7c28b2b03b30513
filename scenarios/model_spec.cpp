#include "scenarios/model_spec.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "backend/core/text.hpp"

namespace orrery {

namespace fs = std::filesystem;

namespace {

struct YamlModel {
  std::string name, kind;
  Node rest;
};
void describe(Fields<YamlModel>& f) {
  f.field("name", &YamlModel::name).required();
  f.field("kind", &YamlModel::kind).required().one_of({"transformer", "mlp", "resnet", "fno"});
  f.rest(&YamlModel::rest);
}

bool is_file(const fs::path& path) {
  std::error_code none;
  return fs::is_regular_file(path, none);
}

bool is_path(const std::string& name) {
  return name.find('/') != std::string::npos || name.ends_with(".yaml") || name.ends_with(".json");
}

std::string model_file(const std::string& wanted, const std::string& root,
                       const std::string& beside) {
  if (is_path(wanted)) {
    const std::string file = find_file(wanted, beside, root);
    return !file.empty() ? file : find_file(wanted + "/config.json", beside, root);
  }
  const fs::path folder = fs::path(root) / "scenarios" / "models";
  for (const fs::path& path : {folder / (wanted + ".yaml"), folder / wanted / "config.json"})
    if (!wanted.empty() && is_file(path)) return path.string();
  return "";
}

// Norms of one place: scale, and shift for a layer norm.
std::int64_t norm_elements(const TransformerSpec& t) {
  return t.norm == "layer" ? 2 * t.hidden : t.hidden;
}

}  // namespace

std::int64_t TransformerSpec::embedding_parameters() const {
  return vocabulary * hidden + (learned_positions ? max_positions * hidden : 0);
}

namespace {

// Multiply-adds of one layer's attention, and of an MLP of this width; each is a parameter.
std::int64_t attention_weights(const TransformerSpec& t) {
  const std::int64_t q = t.heads * t.head_size;
  if (!t.latent()) return t.hidden * t.head_size * (t.heads + 2 * t.kv_heads) + q * t.hidden;
  const std::int64_t queries = t.q_rank > 0 ? (t.hidden + q) * t.q_rank : t.hidden * q;
  return queries + t.hidden * (t.kv_rank + t.rope_head) +
         t.kv_rank * t.heads * (t.head_size - t.rope_head + t.v_head) +
         t.heads * t.v_head * t.hidden;
}
std::int64_t mlp_weights(const TransformerSpec& t, std::int64_t width) {
  return (t.gated ? 3 : 2) * t.hidden * width;
}

// What a token passes, or all of it, of one mixture layer besides attention.
std::int64_t mixture_weights(const TransformerSpec& t, std::int64_t experts) {
  return t.hidden * t.experts + experts * mlp_weights(t, t.expert_ffn) +
         mlp_weights(t, t.shared_ffn) + (t.shared_gate ? t.hidden : 0);
}

}  // namespace

std::int64_t TransformerSpec::layer_multiply_adds() const {
  return layers * attention_weights(*this) + (layers - mixture_layers()) * mlp_weights(*this, ffn) +
         mixture_layers() * mixture_weights(*this, experts_per_token);
}

std::int64_t TransformerSpec::attention_multiply_adds() const {
  return layers * heads * (head_size + (latent() ? v_head : head_size));
}

std::int64_t TransformerSpec::layer_parameters() const {
  std::int64_t each = attention_weights(*this) + 2 * norm_elements(*this);
  if (qkv_bias) each += head_size * (heads + 2 * kv_heads);
  if (output_bias) each += hidden;
  if (qk_norm) each += 2 * head_size;
  if (latent()) each += kv_rank + q_rank;  // norms of the vectors
  const std::int64_t mlp_biases = mlp_bias ? (gated ? 2 : 1) * ffn + hidden : 0;
  const std::int64_t router_bias = router == "sigmoid" ? experts : 0;
  return layers * each + (layers - mixture_layers()) * (mlp_weights(*this, ffn) + mlp_biases) +
         mixture_layers() * (mixture_weights(*this, experts) + router_bias);
}

std::int64_t TransformerSpec::active_parameters() const {
  return parameters() -
         mixture_layers() * (experts - experts_per_token) * mlp_weights(*this, expert_ffn);
}

std::int64_t TransformerSpec::head_parameters() const {
  return norm_elements(*this) + (tied ? 0 : hidden * vocabulary) + (head_bias ? vocabulary : 0);
}

std::int64_t TransformerSpec::parameters() const {
  return embedding_parameters() + layer_parameters() + head_parameters();
}

std::string TransformerSpec::too_large() const {
  const auto d = [](std::int64_t v) { return static_cast<double>(v); };
  const double layer =
      d(hidden) * (2 * d(head_size) * d(heads) + 2 * d(head_size) * d(kv_heads) + 3 * d(ffn));
  const double mixture = 3 * d(hidden) * (d(experts) * d(expert_ffn) + d(shared_ffn) + d(experts));
  const double all =
      d(layers) * (layer + mixture) + d(hidden) * (2 * d(vocabulary) + d(max_positions));
  return all <= 1e15 ? "" : fmt::format("about {:.0e} parameters are more than any model has", all);
}

namespace {

template <class Spec>
void describe_parametrisation(Fields<Spec>& f) {
  f.field("parametrisation", &Spec::parametrisation)
      .one_of({{"standard", Parametrisation::standard}, {"mu", Parametrisation::mu}})
      .doc("mu: learning rates found at one width are good at all");
  f.field("base_width", &Spec::base_width)
      .between(1, 1'000'000)
      .doc("of mu: the hidden width at which it is the standard parametrisation");
  f.check([](const Spec& spec, const SectionProblems& p) {
    if (spec.base_width != 1 && spec.parametrisation == Parametrisation::standard)
      p.add("base_width", "the standard parametrisation has no base width",
            "leave it out, or use parametrisation: mu");
  });
}

}  // namespace

void describe(Fields<TransformerSpec>& f) {
  f.field("layers", &TransformerSpec::layers).required().between(1, 100'000);
  f.field("hidden", &TransformerSpec::hidden).required().between(1, 1'000'000);
  f.field("heads", &TransformerSpec::heads).required().between(1, 100'000);
  f.field("kv_heads", &TransformerSpec::kv_heads).between(0, 100'000).doc("0: as many as heads");
  f.field("head_size", &TransformerSpec::head_size).between(0, 100'000).doc("0: hidden / heads");
  f.field("ffn", &TransformerSpec::ffn).between(0, 10'000'000).doc("0: 4 hidden");
  f.field("vocabulary", &TransformerSpec::vocabulary).required().between(1, 10'000'000);
  f.field("max_positions", &TransformerSpec::max_positions)
      .between(0, 1'000'000'000)
      .doc("0: unlimited");
  f.field("norm", &TransformerSpec::norm).one_of({"rms", "layer"});
  f.field("activation", &TransformerSpec::activation).one_of({"silu", "gelu", "relu"});
  f.field("gated", &TransformerSpec::gated).doc("three MLP matrices, not two");
  f.field("tied", &TransformerSpec::tied).doc("the head is the embedding");
  f.field("learned_positions", &TransformerSpec::learned_positions);
  f.field("qkv_bias", &TransformerSpec::qkv_bias);
  f.field("output_bias", &TransformerSpec::output_bias);
  f.field("mlp_bias", &TransformerSpec::mlp_bias);
  f.field("head_bias", &TransformerSpec::head_bias);
  f.field("qk_norm", &TransformerSpec::qk_norm);
  f.field("parallel_blocks", &TransformerSpec::parallel_blocks);
  f.field("reversible", &TransformerSpec::reversible)
      .doc("layers in two streams, x1 + attention of x2 and x2 + MLP of that");
  f.field("window", &TransformerSpec::window)
      .between(0, 1'000'000'000)
      .doc("0: attention sees all");
  f.field("rope_theta", &TransformerSpec::rope_theta)
      .positive()
      .doc("base of the rotary embedding");
  f.field("norm_epsilon", &TransformerSpec::norm_epsilon).positive();
  describe_parametrisation(f);
  f.field("experts", &TransformerSpec::experts).between(0, 100'000).doc("0: no mixture");
  f.field("experts_per_token", &TransformerSpec::experts_per_token).between(1, 100'000);
  f.field("expert_ffn", &TransformerSpec::expert_ffn).between(0, 10'000'000).doc("0: ffn");
  f.field("shared_ffn", &TransformerSpec::shared_ffn)
      .between(0, 10'000'000)
      .doc("width of the experts that all tokens pass");
  f.field("dense_layers", &TransformerSpec::dense_layers)
      .between(0, 100'000)
      .doc("first layers without a mixture");
  f.field("shared_gate", &TransformerSpec::shared_gate).doc("scales the shared experts' output");
  f.field("router", &TransformerSpec::router)
      .one_of({"softmax", "softmax-all", "sigmoid"})
      .doc("weights of the chosen: a softmax over them, over all, or sigmoids made to sum to one");
  f.field("kv_rank", &TransformerSpec::kv_rank)
      .between(0, 1'000'000)
      .doc("of latent attention; 0: none");
  f.field("q_rank", &TransformerSpec::q_rank).between(0, 1'000'000);
  f.field("rope_head", &TransformerSpec::rope_head)
      .between(0, 100'000)
      .doc("part of head_size that turns");
  f.field("v_head", &TransformerSpec::v_head).between(0, 100'000).doc("size of a value's head");
  f.check([](const TransformerSpec& t, const SectionProblems& p) {
    if (t.head_size == 0 && t.hidden % t.heads != 0)
      p.add("heads", fmt::format("{} heads do not divide hidden = {}", t.heads, t.hidden),
            "give head_size");
    if (t.kv_heads > 0 && t.heads % t.kv_heads != 0)
      p.add("kv_heads", fmt::format("{} does not divide heads = {}", t.kv_heads, t.heads));
    if (t.parametrisation == Parametrisation::mu && t.experts > 0)
      p.add("parametrisation", "not available yet: mu of a mixture of experts",
            "use standard, or a model without experts");
    if (t.learned_positions && t.max_positions == 0)
      p.add("learned_positions", "a table of positions needs max_positions");
    if (t.reversible && t.parallel_blocks)
      p.add("reversible", "attention and MLP of a reversible layer follow each other",
            "leave out parallel_blocks");
    if (t.reversible && t.experts > 0)
      p.add("reversible", "a reversible layer has no mixture of experts", "leave out experts");
    if (t.experts > 0 && t.experts_per_token > t.experts)
      p.add("experts_per_token", fmt::format("{} of {} experts", t.experts_per_token, t.experts));
    if (t.dense_layers > t.layers)
      p.add("dense_layers", fmt::format("{} of {} layers", t.dense_layers, t.layers));
    if (t.kv_rank > 0 && (t.head_size <= t.rope_head || t.v_head == 0 || t.rope_head == 0))
      p.add("kv_rank", "latent attention needs head_size, and rope_head below it, and v_head");
  });
}

std::int64_t MlpSpec::multiply_adds() const {
  return context * embedding * hidden + (inner() - 1) * hidden * hidden + hidden * vocabulary;
}

std::int64_t MlpSpec::parameters() const {
  return vocabulary * embedding + multiply_adds() + inner() * hidden + vocabulary;
}

void describe(Fields<MlpSpec>& f) {
  f.field("context", &MlpSpec::context).required().between(1, 65'536).doc("bytes it looks back");
  f.field("embedding", &MlpSpec::embedding)
      .required()
      .between(1, 65'536)
      .doc("size of a byte's vector");
  f.field("hidden", &MlpSpec::hidden).required().between(1, 1'000'000);
  f.field("layers", &MlpSpec::layers).required().between(1, 10'000).doc("hidden layers");
  f.field("vocabulary", &MlpSpec::vocabulary).between(2, 65'536);
  f.field("reversible", &MlpSpec::reversible)
      .doc("hidden layers but the first are couplings of two");
  describe_parametrisation(f);
}

void describe(Fields<ResnetShape>& f) {
  f.field("depth", &ResnetShape::depth).required().doc("18, 34, 50, 101 or 152");
  f.field("image", &ResnetShape::image).between(1, 65'536).doc("height and width");
  f.field("classes", &ResnetShape::classes).between(1, 10'000'000);
  f.field("small_images", &ResnetShape::small_images)
      .doc("CIFAR's stem: 3 x 3 with stride 1, no pooling");
  f.field("width", &ResnetShape::width).between(1, 4096).doc("channels of the first stage");
  f.list("blocks", &ResnetShape::blocks)
      .between(1, 1000)
      .doc("residual blocks of each stage; absent: the depth's");
  f.field("reversible", &ResnetShape::reversible).doc("a RevNet: two streams of these channels");
  f.check([](const ResnetShape& r, const SectionProblems& p) {
    if (r.blocks.size() > 6)  // each has twice the channels of the one before
      p.add("blocks", fmt::format("{} stages are more than any network has", r.blocks.size()),
            "use at most 6");
    for (const int depth : {18, 34, 50, 101, 152})
      if (r.depth == depth) return;
    p.add("depth", fmt::format("there is no ResNet of depth {}", r.depth),
          "use 18, 34, 50, 101 or 152");
  });
}

void describe(Fields<FnoShape>& f) {
  f.list("grid", &FnoShape::grid).between(1, 1'000'000).doc("points by dimension");
  f.list("modes", &FnoShape::modes).between(1, 1'000'000).doc("frequencies kept by dimension");
  f.field("width", &FnoShape::width).required().between(1, 65'536).doc("channels");
  f.field("layers", &FnoShape::layers).required().between(1, 10'000);
  f.field("in_channels", &FnoShape::in_channels).between(1, 65'536);
  f.field("out_channels", &FnoShape::out_channels).between(1, 65'536);
  f.check([](const FnoShape& s, const SectionProblems& p) {
    if (s.grid.empty() || s.grid.size() != s.modes.size())
      return p.add("modes", fmt::format("modes of {} dimensions, but the grid has {}",
                                        s.modes.size(), s.grid.size()));
    double points = 1;
    for (const std::int64_t g : s.grid) points *= static_cast<double>(g);
    if (points * s.width * s.width * s.layers > 1e15)
      return p.add("grid", fmt::format("{:.0e} points are more than any grid has", points));
    for (std::size_t i = 0; i < s.grid.size(); ++i)
      if (2 * s.modes[i] > s.grid[i])
        p.add("modes", fmt::format("{} points have at most {} modes, not {}", s.grid[i],
                                   s.grid[i] / 2, s.modes[i]));
  });
}

std::int64_t ModelSpec::parameters() const {
  switch (kind) {
    case ModelKind::transformer:
      return transformer.parameters();
    case ModelKind::mlp:
      return mlp.parameters();
    case ModelKind::resnet:
      return make_picture_network(resnet).parameter_elements();
    case ModelKind::fno:
      return make_fno(fno).parameter_elements();
  }
  return 0;
}

std::int64_t ModelSpec::active_parameters() const {
  return kind == ModelKind::transformer ? transformer.active_parameters() : parameters();
}

std::int64_t ModelSpec::layers() const {
  switch (kind) {
    case ModelKind::transformer:
      return transformer.layers + (transformer.reversible ? 2 : 0);  // where streams begin and end
    case ModelKind::mlp:
      return mlp.layers + (mlp.reversible ? 2 : 0);
    case ModelKind::resnet:
      return static_cast<std::int64_t>(make_picture_network(resnet).blocks.size()) - 2;
    case ModelKind::fno:
      return fno.layers;
  }
  return 0;
}

double ModelSpec::widest_activations() const {
  const auto d = [](std::int64_t v) { return static_cast<double>(v); };
  switch (kind) {
    case ModelKind::transformer: {
      const TransformerSpec& t = transformer;
      const double experts = d(t.experts_per_token) * (d(t.hidden) + 3 * d(t.expert_ffn));
      return 6 * d(t.hidden) + 3 * d(t.heads + t.kv_heads) * d(t.head_size) + 3 * d(t.ffn) +
             experts + 3 * d(t.shared_ffn) + d(t.vocabulary);
    }
    case ModelKind::mlp:
      return d(mlp.context * mlp.embedding) + d(mlp.hidden) + d(mlp.vocabulary);
    case ModelKind::resnet:
      return 8 * d(resnet.width) * d(resnet.image) * d(resnet.image) + d(resnet.classes);
    case ModelKind::fno:
      return 8 * d(fno.points()) * (fno.width + fno.in_channels + fno.out_channels);
  }
  return 0;
}

std::vector<std::string> model_names(const std::string& data_root) {
  std::vector<std::string> out;
  std::error_code none;
  for (const auto& entry :
       fs::directory_iterator(fs::path(data_root) / "scenarios" / "models", none)) {
    if (entry.path().extension() == ".yaml")
      out.push_back(entry.path().stem().string());
    else if (is_file(entry.path() / "config.json"))
      out.push_back(entry.path().filename().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::string find_file(const std::string& path, const std::string& beside,
                      const std::string& data_root) {
  if (path.empty()) return "";
  for (const fs::path& candidate :
       {fs::path(path), fs::path(beside) / path, fs::path(data_root) / path})
    if (is_file(candidate)) return candidate.string();
  return "";
}

ModelSpec model_from_yaml(const Document& document) {
  Problems problems(document);
  const auto heading = read<YamlModel>(document, problems);
  ModelSpec model;
  model.name = heading.name;
  if (heading.kind == "mlp") {
    model.kind = ModelKind::mlp;
    model.mlp = read<MlpSpec>(heading.rest, problems);
  } else if (heading.kind == "resnet") {
    model.kind = ModelKind::resnet;
    model.resnet = read<ResnetShape>(heading.rest, problems);
  } else if (heading.kind == "fno") {
    model.kind = ModelKind::fno;
    model.fno = read<FnoShape>(heading.rest, problems);
  } else if (heading.kind == "transformer") {
    TransformerSpec t = read<TransformerSpec>(heading.rest, problems);
    if (t.kv_heads == 0) t.kv_heads = t.heads;
    if (t.head_size == 0 && t.heads > 0) t.head_size = t.hidden / t.heads;
    if (t.ffn == 0) t.ffn = 4 * t.hidden;
    if (t.experts > 0 && t.expert_ffn == 0) t.expert_ffn = t.ffn;
    if (const std::string text = t.too_large(); problems.empty() && !text.empty())
      problems.add("layers", text);
    model.transformer = t;
  }
  problems.throw_if_any();
  return model;
}

ModelSpec read_model(const std::string& wanted, const std::string& data_root,
                     const std::string& beside, const Mark& asked_at) {
  const std::string file = model_file(wanted, data_root, beside);
  if (file.empty()) {
    const std::vector<std::string> known = model_names(data_root);
    const std::string near = did_you_mean(wanted, known);
    Problems problems;
    problems.add(asked_at, fmt::format("unknown model '{}'", wanted),
                 !near.empty()
                     ? near
                     : fmt::format("known are {}; or give the path of a YAML or a config.json",
                                   join(known, ", ")));
    problems.throw_if_any();
  }
  const Document document = Document::parse_file(file);
  const bool ours = file.ends_with(".yaml");
  ModelSpec model = ours ? model_from_yaml(document) : model_from_hugging_face(document);
  if (!ours)
    model.name = is_path(wanted) ? fs::absolute(file).parent_path().filename().string() : wanted;
  model.file = file;
  return model;
}

}  // namespace orrery
