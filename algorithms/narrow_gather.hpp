// Parameters that are gathered in 8 bits. See narrow_gather.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "algorithms/flat_parameters.hpp"

namespace orrery {

class NarrowGather {
 public:
  // In set-up. The channels of all but experts, of experts; null: one rank has them all. Error
  // {config} for a model without matrices that are operands of products, and for shards that are
  // not fp32.
  NarrowGather(FlatParameters& flat, Stream& stream, const std::array<Channel*, 2>& channels);

  void updated() { stale_ = true; }  // shards have new values
  // A group without such matrices is gathered as it is.
  bool narrows(const ParameterGroup& group) const { return !parts_[number_of(group)].empty(); }
  // On the stream of set-up: the messages of all ranks, by part of the group.
  std::vector<Tensor> gather(const ParameterGroup& group);
  // Writes what they say to the group's whole.
  void decode(Stream& stream, const ParameterGroup& group,
              const std::vector<Tensor>& messages) const;
  Bytes messages(const ParameterGroup& group, std::size_t part) const;  // of all ranks
  Bytes sent_besides() const;                                           // per update, for scales

 private:
  // Neighbouring elements of a part that are sent alike, from its first element on; a matrix by its
  // number among those of the part.
  struct Run {
    std::int64_t begin = 0, end = 0;
    int matrix = -1;  // none: sent in the type that they are computed with
    bool operator==(const Run&) const = default;
  };
  // What one rank owns of a run.
  struct Piece {
    std::int64_t begin = 0, elements = 0;
    int matrix = -1;
    std::size_t at = 0;  // in the rank's message
  };
  // How parts of equal layout are sent.
  struct Layout {
    bool experts = false;
    std::int64_t shard = 0;
    std::vector<Run> runs{};
    int matrices = 0;
    std::int64_t message = 0;  // bytes of one rank's
    Prepared encode{}, decode{};
  };
  struct Part {
    std::size_t layout = 0;
    int first_matrix = 0;  // among those of its kind
  };
  std::vector<Run> runs_of(const DividedPart& part) const;
  std::int64_t message_of(const Layout& layout) const;
  std::vector<Piece> pieces_of(const Layout& layout, int index) const;
  Part add(const DividedPart& part);
  void prepare(Layout& layout) const;
  void prepare_search(std::size_t kind);
  void find_largest();
  Tensor largest_of(const Part& part) const;
  std::size_t number_of(const ParameterGroup& group) const {
    return static_cast<std::size_t>(&group - flat_.groups().data());
  }

  Rank& rank_;
  FlatParameters& flat_;
  Stream& stream_;
  std::array<Channel*, 2> channels_;
  std::array<int, 2> matrices_{};    // all, by kind
  std::array<Tensor, 2> largest_{};  // magnitude of each
  std::array<Prepared, 2> search_{};
  std::vector<Layout> layouts_;
  std::vector<std::vector<Part>> parts_;  // by group; none: gathered as it is
  bool stale_ = true;
};

}  // namespace orrery
