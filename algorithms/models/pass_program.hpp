// A pass of a block as data: sequences of kernels, and the communications between them.
//
//   PassProgram p;
//   const int x = p.tensor("input"), y = p.tensor("output");
//   p.add(rank.prepare(...), {{x, 0, n}, {y, 0, n}});
//   p.all_reduce(line, {y, 0, n});        // starts; kernels added now run beside it
//   p.wait();                             // what is added now needs it
//   p.build(rank, key);
//   ...
//   p.run(compute, {input, output});
//
// A pass without communication is one sequence. With it, kernels between two communications are
// one, which is bound to no more of the tensors that are communicated than its kernels touch; or
// several, where that is more than a sequence can be bound to.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "backend/rank.hpp"

namespace orrery {

// Where a pass communicates: a channel, and the stream that it belongs to on this rank.
struct Line {
  Channel* channel = nullptr;
  Stream* stream = nullptr;
};

class PassProgram {
 public:
  // Declares the next of the tensors that `run` is given; views name it by the number returned.
  int tensor(std::string name);
  void add(const Prepared& kernel, std::vector<SlotView> operands);
  // Behind the next wait, for what a communication under way brings.
  void add_behind_wait(const Prepared& kernel, std::vector<SlotView> operands) {
    behind_wait_.push_back({kernel, std::move(operands)});
  }

  // Start after the kernels added so far.
  void all_reduce(const Line& line, const SlotView& view, Reduce reduce = Reduce::sum);
  void all_gather(const Line& line, const SlotView& out, const SlotView& in);
  void reduce_scatter(const Line& line, const SlotView& out, const SlotView& in);
  void all_to_all(const Line& line, const SlotView& out, const SlotView& in);
  // Along the directed edges of a ring: `line` is an edge, `mine` goes to the next rank.
  void shift(const Line& send, const Line& receive, const SlotView& mine, const SlotView& theirs);
  // Later kernels start after the communications started so far: all, or those of one line.
  void wait();
  void wait(const Line& line);

  // Makes the sequences, under keys that begin with `key`: it must determine the kernels.
  void build(Rank& rank, const std::string& key);
  bool built() const { return built_; }
  // `tensors` in the order of their declaration; those that no kernel uses, or only as operands
  // that it can do without, may be empty.
  void run(Stream& compute, std::initializer_list<Tensor> tensors) const;
  Flops matrix_flops() const { return matrix_; }

 private:
  enum class Kind : std::uint8_t { sequence, communicate, wait };
  struct Step {
    Kind kind = Kind::sequence;
    std::vector<Sequence::Step> kernels;  // until built
    const Sequence* sequence = nullptr;
    std::vector<SlotView> slots;  // what the sequence is bound to
    Collective collective = Collective::all_reduce;
    Reduce reduce = Reduce::sum;
    Line line{};
    SlotView out{}, in{};
  };
  void communicate(Collective kind, const Line& line, const SlotView& out, const SlotView& in,
                   Reduce reduce = Reduce::sum);
  std::vector<SlotView> slots_of(const Step& step) const;
  void split_wide_steps();
  static void issue(const Step& step, Stream& compute, std::initializer_list<Tensor> tensors);

  std::vector<std::string> tensors_;
  std::vector<bool> communicated_;  // by tensor
  std::vector<Step> steps_;
  std::vector<Sequence::Step> behind_wait_;
  Flops matrix_{0};
  bool built_ = false;
};

}  // namespace orrery
