// Convolutions one after the other, each followed by a batch norm and a ReLU: what residual and
// reversible networks for pictures are made of.
#pragma once

#include <string>
#include <vector>

#include "algorithms/models/block.hpp"

namespace orrery {

// Of PyTorch's batch norms: epsilon 1e-5, momentum 0.1.
inline constexpr double batch_norm_epsilon = 1e-5, batch_norm_momentum = 0.1;

// A convolution's weights, gain and bias, as parameters of a block; initial values as He et al.
// 2015 (arXiv 1502.01852, fan-out). The norm's running statistics are state.
void add_convolution(const std::string& name, const ConvolutionShape& shape,
                     std::vector<ParameterSpec>& parameters, std::vector<ParameterSpec>& state);

// Saved, for each convolution: its output, and that of its norm, on which the ReLU works in place
// but behind the last convolution, where it makes the block's output. Without the last ReLU the
// last norm makes the output.
class ConvolutionPath : public Block {
 public:
  struct Options {
    bool last_relu = true;
    bool reads_pictures = false;  // the input is the samples', whose gradient nobody asks for
  };
  // `key` determines the shapes and options; parameters are named after `names`, one a convolution.
  ConvolutionPath(std::string key, std::vector<ConvolutionShape> path,
                  const std::vector<std::string>& names, Dtype dtype, Options options);

  void prepare(Rank& rank) override;
  void forward(const BlockPass& p) const override;
  void backward(const BlockPass& p) const override;
  std::int64_t input_elements() const { return path_.front().inputs(); }

 private:
  struct Place {  // of a convolution in the flat tensors
    std::int64_t parameters = 0, state = 0, saved = 0;
  };
  void build_forward(Rank& rank, Sequence& s, bool evaluates) const;
  void build_backward(Rank& rank, Sequence& s) const;
  bool relu_behind(std::size_t i) const { return i + 1 < path_.size() || options_.last_relu; }
  std::int64_t pixels(std::size_t i) const { return path_[i].outputs() / path_[i].out; }

  std::string key_;
  std::vector<ConvolutionShape> path_;
  std::vector<Place> places_;
  Dtype dtype_;
  Options options_;
  std::int64_t part_ = 0;  // elements of one of the two parts of the workspace
  const Sequence* forward_ = nullptr;
  const Sequence* evaluate_ = nullptr;
  const Sequence* backward_ = nullptr;
};

// Parts of a pass, for blocks that are made of others. Empty tensors stay empty.
Tensor part_of(const Tensor& tensor, std::int64_t begin, std::int64_t elements);
// A pass of `block`, whose parameters, state, saved and kept activations are, from these places on,
// parts of those of `whole`. Its other tensors are left empty.
struct BlockPlace {
  std::int64_t parameters = 0, state = 0, saved = 0, kept = 0;
  BlockPlace after(const Block& block) const;  // of the block behind this one
};
BlockPass pass_of(const Block& block, const BlockPass& whole, const BlockPlace& place);

}  // namespace orrery
