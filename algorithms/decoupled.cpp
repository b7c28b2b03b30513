#include "algorithms/decoupled.hpp"

#include <algorithm>

#include "algorithms/codecs/view.hpp"

namespace orrery {

namespace {

// Copies of a state, on a stream, and the way back.
class Snapshot : public Archive {
 public:
  explicit Snapshot(Stream& stream) : stream_(stream) {}
  void field(std::string_view name, Tensor& tensor) override {
    if (restoring_) {
      stream_.copy(tensors_.at(next_tensor_++), tensor);
      return;
    }
    tensors_.push_back(stream_.rank().allocate(stream_, Label::workspace, tensor.elements(),
                                               tensor.dtype(), {.name = name}));
    stream_.copy(tensor, tensors_.back());
  }
  void field(std::string_view, std::int64_t& value) override {
    if (restoring_)
      value = numbers_.at(next_number_++);
    else
      numbers_.push_back(value);
  }
  void field(std::string_view, double&) override {}  // optimizers have none
  void restore() { restoring_ = true; }

 private:
  Stream& stream_;
  std::vector<Tensor> tensors_;
  std::vector<std::int64_t> numbers_;
  std::size_t next_tensor_ = 0, next_number_ = 0;
  bool restoring_ = false;
};

}  // namespace

void describe(Fields<DecoupledOptions>& f) { f.section("optimizer", &DecoupledOptions::optimizer); }

Decoupled::Decoupled(Replica& replica, const DecoupledOptions& options, int group)
    : replica_(replica),
      rank_(replica.rank()),
      group_(group),
      compute_(replica.compute()),
      communication_(rank_.stream("gradients")),
      elements_(replica.flat().all_values().elements()) {
  const int n = rank_.size(gradient_axes);
  data_ = &rank_.channel(gradient_axes, "gradients");
  counts_ = &rank_.channel(gradient_axes, "counts");
  constexpr Axes worker{Axis::tensor, Axis::context};
  if (rank_.size(worker) > 1) worker_ = &rank_.channel(worker, "decisions");
  shard_ = (elements_ + n - 1) / n;
  begin_ = shard_ * data_->index();
  const Dtype dtype = replica.flat().all_values().dtype();
  const auto tensor = [&](Label label, std::int64_t size, Dtype type, const char* name) {
    Tensor t = rank_.allocate(compute_, label, size, type, {.name = name});
    compute_.launch(rank_.prepare(Kernel::fill(size, 0, type)), {t});
    return t;
  };
  buffer_ = tensor(Label::communication, shard_ * n, dtype, "acco.buffer");
  shard_gradient_ = tensor(Label::gradients, shard_, dtype, "shard.gradient");
  weights_ = tensor(Label::optimizer, shard_, Dtype::fp32, "shard.weights");
  if (dtype != Dtype::fp32) narrow_ = tensor(Label::communication, shard_, dtype, "shard.narrow");
  const std::int64_t mine = std::clamp<std::int64_t>(elements_ - begin_, 0, shard_);
  if (mine > 0)
    cast(compute_, replica.flat().all_values().slice(begin_, begin_ + mine),
         weights_.slice(0, mine));
  optimizer_ = make_optimizer(options.optimizer.options(), rank_, compute_, shard_, Dtype::fp32);
  const TensorOptions always{.values = Values::always, .name = "acco.count"};
  count_ = rank_.allocate(compute_, Label::communication, 1, Dtype::fp32, always);
  scale_ = rank_.allocate(compute_, Label::communication, 1, Dtype::fp32, always);
  if (worker_ != nullptr)
    missing_ = rank_.allocate(compute_, Label::communication, 1, Dtype::fp32, always);
  // Gradients are sums over micro-batches, each divided by those that a step has by plan.
  const auto planned = static_cast<float>(replica.options().micro_batches);
  invert_ = rank_.prepare(Kernel::custom(
      "planned / count", {Role::read, Role::write},
      [planned](std::span<const View> v) { floats(v[1])[0] = planned / floats(v[0])[0]; }));
  replica_.zero_gradients();
  staleness().reads({});
}

void Decoupled::cast(Stream& stream, const Tensor& from, const Tensor& to) {
  if (from.dtype() == to.dtype())
    stream.copy(from, to);
  else
    stream.launch(rank_.prepare(Kernel::cast(from.elements(), from.dtype(), to.dtype())),
                  {from, to});
}

void Decoupled::accumulate_group(Progress& progress) {
  for (int i = 0; i < group_; ++i)
    replica_.accumulate_micro_batch(progress.draw(replica_.model().micro_batch));
  taken_ += group_;
}

void Decoupled::first_gradients(Progress& progress) {
  accumulate_group(progress);
  hand_over();
}

void Decoupled::hand_over() {
  cast(compute_, replica_.flat().all_gradients(), buffer_.slice(0, elements_));
  handed_over_ = taken_;
  in_buffer_ = staleness().waiting();
}

Tensor Decoupled::clear() {
  const Tensor loss = replica_.loss(),
               factor = rank_.allocate(compute_, Label::workspace, 1, Dtype::fp32,
                                       {.values = Values::always, .name = "factor"});
  compute_.upload(factor, {static_cast<double>(replica_.options().micro_batches) /
                           static_cast<double>(taken_)});
  compute_.launch(rank_.prepare(Kernel::linear_combination(1, 0, 1, Dtype::fp32, true)),
                  {loss, loss, {}, factor});
  replica_.zero_gradients();
  taken_ = 0;
  staleness().set_waiting({});
  return loss;
}

void Decoupled::update_shard() {
  optimizer_->begin_step(communication_);
  for_alike(replica_.parameters(),
            [&](std::int64_t begin, std::int64_t end, const UpdateRule& rule) {
              const std::int64_t from = std::max(begin, begin_) - begin_;
              const std::int64_t to = std::min(end, begin_ + shard_) - begin_;
              if (from < to)
                optimizer_->update(communication_, weights_.slice(from, to),
                                   shard_gradient_.slice(from, to), from, rule, scale_);
            });
}

void Decoupled::communicate(Update update) {
  Stream& n = communication_;
  n.after(compute_.record());
  n.upload(count_, {static_cast<double>(handed_over_)});
  n.all_reduce(count_, Reduce::sum, *counts_);
  n.launch(invert_, {count_, scale_});
  n.reduce_scatter(shard_gradient_, buffer_, Reduce::sum, *data_);
  if (update != Update::estimate) {
    update_shard();
    staleness().apply(in_buffer_);
  }
  Snapshot before(n);
  const auto state = [&] {
    before.field("weights", weights_);
    optimizer_->visit(before);
  };
  if (update != Update::commit) {
    state();
    update_shard();
  }
  if (narrow_) cast(n, weights_, narrow_);
  gathered_ = n.all_gather(buffer_, narrow_ ? narrow_ : weights_, *data_);
  if (update == Update::commit) return;
  before.restore();
  state();
}

// Ranks of one worker look at slightly different times and must take as many micro-batches.
bool Decoupled::buffer_is_there() {
  rank_.wait(compute_.record());  // before a look at the clock, the host lets the device finish
  const bool here = rank_.poll(gathered_);
  if (worker_ == nullptr) return here;
  compute_.upload(missing_, {here ? 0.0 : 1.0});
  compute_.all_reduce(missing_, Reduce::max, *worker_);
  return rank_.read(missing_)[0] == 0;
}

void Decoupled::round(Progress& progress, Update update) {
  communicate(update);
  do accumulate_group(progress);
  while (!buffer_is_there());
  compute_.after(gathered_);
  compute_.copy(buffer_.slice(0, elements_), replica_.flat().all_values());
  const std::int64_t updates = staleness().current().updates;
  staleness().reads(update == Update::commit ? Version{updates} : Version{updates + 1, true});
}

Bytes Decoupled::sent_in(std::int64_t rounds) const {
  const int n = data_->size();
  return (wire_bytes(Collective::reduce_scatter, buffer_.bytes(), n) +
          wire_bytes(Collective::all_gather, buffer_.bytes(), n) +
          wire_bytes(Collective::all_reduce, count_.bytes(), n)) *
         rounds;
}

void Decoupled::visit(Archive& archive) {
  const Archive::Scope scope(archive, "decoupled");
  Tensor values = replica_.flat().all_values(), gradients = replica_.flat().all_gradients(),
         loss = replica_.loss();
  archive.field("parameters", values);
  archive.field("gradients", gradients);
  archive.field("loss", loss);
  archive.field("buffer", buffer_);
  archive.field("weights", weights_);
  archive.field("taken", taken_);
  archive.field("handed_over", handed_over_);
  optimizer_->visit(archive);
  visit_versions(archive);
}

// Versions are counted from where a run began or was resumed. At the end of a step all gradients in
// B are of one version, and those in G, if any, are the same.
void Decoupled::visit_versions(Archive& archive) {
  const std::int64_t now = staleness().current().updates;
  const Version first = in_buffer_.empty() ? Version{} : in_buffer_.begin()->first;
  std::int64_t late = now - first.updates, predicted = first.predicted ? 1 : 0,
               ahead = staleness().read().updates - now;
  archive.field("buffer.late", late);
  archive.field("buffer.predicted", predicted);
  archive.field("parameters.ahead", ahead);
  in_buffer_ = {{{now - late, predicted == 1}, handed_over_}};
  staleness().set_waiting(taken_ > 0 ? in_buffer_ : GradientVersions{});
  staleness().reads({now + ahead, ahead > 0});
}

}  // namespace orrery
