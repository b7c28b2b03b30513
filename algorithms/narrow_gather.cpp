// Gathering parameters in fp8 (E4M3), with a scale for each matrix.
//
// What torchao does for FSDP (pytorch/ao, torchao/float8/fsdp_utils.py: fsdp_pre_all_gather,
// precompute_float8_dynamic_scale_for_fsdp; pytorch/torchtitan, docs/float8.md): rank i of n owns
// an n-th W_i of the matrices that are operands of fp8 products, in fp32. After every update
//
//   a <- max over ranks of max |W_i|, of each matrix     one all-reduce for all of them
//   for each group:   q_i <- round(448 W_i / a);   q <- all_gather q_i;   W <- a q / 448
//
// What is no such matrix (gains, biases, routers) goes beside it in the type that it is computed
// with; groups without one (the embedding, the head) are gathered as they are.
//
// Cost, of a group with M elements in such matrices and V others of B bytes, for n ranks:
//   communication   in place of each all-gather of B (M + V), one of n messages of equal size: the
//                   longest, at most (M + V) / n + (B - 1) V bytes; per update an all-reduce of 4
//                   bytes for each matrix
//   memory          the messages, beside what they are decoded to, until that is done; 4 bytes for
//                   each matrix
//   time            a cast reads 4 and writes 1 byte of an element that is owned; decoding reads 1
//                   and writes B of every element; the search after an update reads 4
#include "algorithms/narrow_gather.hpp"

#include <algorithm>
#include <cmath>
#include <map>

#include "algorithms/codecs/message.hpp"
#include "algorithms/codecs/narrow_type.hpp"
#include "algorithms/codecs/view.hpp"

namespace orrery {

namespace {

const NarrowType& e4m3() {
  static const NarrowType type("fp8-e4m3");
  return type;
}

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

void put_as(Dtype dtype, std::span<std::byte> bytes, std::size_t place, float value) {
  if (dtype == Dtype::bf16)
    put(bytes, place, to_bf16(value));
  else if (dtype == Dtype::fp16)
    put(bytes, place, to_fp16(value));
  else
    put(bytes, place, value);
}

std::span<std::byte> raw(const View& view) {
  if (view.data == nullptr) return {};
  return {static_cast<std::byte*>(view.data), at(bytes_of(view.elements, view.dtype).value)};
}

}  // namespace

NarrowGather::NarrowGather(FlatParameters& flat, Stream& stream,
                           const std::array<Channel*, 2>& channels)
    : rank_(stream.rank()), flat_(flat), stream_(stream), channels_(channels) {
  if (flat.all_values().dtype() != Dtype::fp32)
    throw Error(Category::config, "parameters that are gathered in 8 bits are stored in fp32")
        .with("hint", "set precision.parameters to fp32");
  for (const ParameterGroup& group : flat.groups()) {
    std::vector<Part>& parts = parts_.emplace_back();
    int matrices = 0;
    for (const DividedPart& part : group.parts)
      for (const Run& run : runs_of(part)) matrices += run.matrix >= 0 ? 1 : 0;
    if (matrices == 0) continue;
    for (const DividedPart& part : group.parts) parts.push_back(add(part));
  }
  if (matrices_[0] + matrices_[1] == 0)
    throw Error(Category::config, "a model without products that take fp8 has nothing to narrow");
  for (const std::size_t kind : {std::size_t{0}, std::size_t{1}}) prepare_search(kind);
}

// Matrices, and what lies between them, padding included.
std::vector<NarrowGather::Run> NarrowGather::runs_of(const DividedPart& part) const {
  const auto all = flat_.parameters();
  const std::int64_t end = part.begin + part.elements;
  std::vector<Run> runs;
  std::int64_t from = part.begin;
  int matrices = 0;
  for (auto p = std::lower_bound(all.begin(), all.end(), part.begin,
                                 [](const Parameter&a, std::int64_t b) { return a.begin < b; });
       p != all.end() && p->begin < end; ++p) {
    if (!p->product) continue;
    if (from < p->begin) runs.push_back({from - part.begin, p->begin - part.begin});
    from = p->begin + p->elements;
    runs.push_back({p->begin - part.begin, from - part.begin, matrices++});
  }
  if (from < end) runs.push_back({from - part.begin, part.elements});
  return runs;
}

NarrowGather::Part NarrowGather::add(const DividedPart& part) {
  Layout layout{part.experts, part.shard, runs_of(part)};
  for (const Run& run : layout.runs) layout.matrices += run.matrix >= 0 ? 1 : 0;
  const auto alike = [&](const Layout& other) {
    return other.experts == layout.experts && other.shard == layout.shard &&
           other.runs == layout.runs;
  };
  const auto found = std::find_if(layouts_.begin(), layouts_.end(), alike);
  int& matrices = matrices_.at(part.experts ? 1 : 0);
  const Part result{at(found - layouts_.begin()), matrices};
  matrices += layout.matrices;
  if (found == layouts_.end()) {
    layout.message = message_of(layout);
    prepare(layout);
    layouts_.push_back(std::move(layout));
  }
  return result;
}

// Every rank's message is as long as the longest.
std::int64_t NarrowGather::message_of(const Layout& layout) const {
  std::map<std::int64_t, std::int64_t> others;  // elements that are not narrowed, by rank
  for (const Run& run : layout.runs) {
    if (run.matrix >= 0) continue;
    for (std::int64_t i = run.begin / layout.shard; i * layout.shard < run.end; ++i)
      others[i] +=
          std::min(run.end, (i + 1) * layout.shard) - std::max(run.begin, i * layout.shard);
  }
  std::int64_t most = 0;
  for (const auto& [rank, elements] : others) most = std::max(most, elements);
  return layout.shard + (size_of(flat_.whole_dtype()) - 1) * most;
}

std::vector<NarrowGather::Piece> NarrowGather::pieces_of(const Layout& layout, int index) const {
  const std::int64_t first = index * layout.shard, last = first + layout.shard;
  std::vector<Piece> pieces;
  std::size_t place = 0;
  for (const Run& run : layout.runs) {
    const std::int64_t begin = std::max(run.begin, first), n = std::min(run.end, last) - begin;
    if (n <= 0) continue;
    pieces.push_back({begin, n, run.matrix, place});
    place += at(n * (run.matrix >= 0 ? 1 : size_of(flat_.whole_dtype())));
  }
  return pieces;
}

void NarrowGather::prepare(Layout& layout) const {
  const int ranks = flat_.ranks(layout.experts), index = flat_.index(layout.experts);
  const Dtype whole = flat_.whole_dtype();
  layout.encode = rank_.prepare(Kernel::custom(  // shard, largest, message
      "fp8.cast", {Role::read, Role::read, Role::write},
      [pieces = pieces_of(layout, index), first = index * layout.shard,
       whole](std::span<const View> v) {
        const auto shard = floats(v[0]), largest = floats(v[1]);
        const auto message = bytes(v[2]);
        std::fill(message.begin(), message.end(), std::byte{0});
        for (const Piece& piece : pieces) {
          const float scale = piece.matrix < 0 ? 0 : largest[at(piece.matrix)] / e4m3().largest();
          for (std::int64_t i = 0; i < piece.elements; ++i) {
            const float x = shard[at(piece.begin - first + i)];
            if (piece.matrix < 0)
              put_as(whole, message, piece.at + at(i * size_of(whole)), x);
            else
              message[piece.at + at(i)] = static_cast<std::byte>(e4m3().code_of(x, scale));
          }
        }
      },
      Flops(static_cast<double>(layout.shard)),
      bytes_of(layout.shard, Dtype::fp32) + Bytes(layout.message)));
  std::vector<std::vector<Piece>> by_rank;
  if (rank_.computes_values())
    for (int i = 0; i < ranks; ++i) by_rank.push_back(pieces_of(layout, i));
  layout.decode = rank_.prepare(Kernel::custom(  // messages, largest, whole
      "fp8.decode", {Role::read, Role::read, Role::write},
      [by_rank, size = at(layout.message), whole](std::span<const View> v) {
        const auto messages = bytes(v[0]), out = raw(v[2]);
        const auto largest = floats(v[1]);
        const std::size_t width = at(size_of(whole));
        for (std::size_t r = 0; r < by_rank.size(); ++r)
          for (const Piece& piece : by_rank[r]) {
            const auto message = messages.subspan(r * size + piece.at);
            const auto to = out.subspan(at(piece.begin) * width);
            const auto n = at(piece.elements);
            if (piece.matrix < 0) {
              std::copy_n(message.begin(), n * width, to.begin());
              continue;
            }
            const float scale = largest[at(piece.matrix)] / e4m3().largest();
            for (std::size_t i = 0; i < n; ++i)
              put_as(whole, to, i * width,
                     e4m3().value_of(static_cast<unsigned>(message[i]), scale));
          }
      },
      Flops(static_cast<double>(layout.shard * ranks)),
      Bytes(layout.message * ranks) + bytes_of(layout.shard * ranks, whole)));
}

// The largest magnitudes in the shards of this rank.
void NarrowGather::prepare_search(std::size_t kind) {
  if (matrices_.at(kind) == 0) return;
  struct Own {
    std::int64_t begin, elements;  // in the buffer of shards
    std::size_t matrix;
  };
  std::vector<Own> own;
  std::int64_t elements = 0;  // in the mean over the ranks
  for (const ParameterGroup& group : flat_.groups())
    for (std::size_t i = 0; i < parts_[number_of(group)].size(); ++i) {
      const DividedPart& divided = group.parts[i];
      if (divided.experts != (kind == 1)) continue;
      const Part& part = parts_[number_of(group)][i];
      const Layout& layout = layouts_[part.layout];
      const int index = flat_.index(divided.experts);
      for (const Run& run : layout.runs)
        if (run.matrix >= 0) elements += (run.end - run.begin) / flat_.ranks(divided.experts);
      for (const Piece& piece : pieces_of(layout, index))
        if (piece.matrix >= 0)
          own.push_back({divided.shard_begin + piece.begin - index * divided.shard, piece.elements,
                         at(part.first_matrix + piece.matrix)});
    }
  largest_.at(kind) = rank_.allocate(stream_, Label::communication, matrices_.at(kind), Dtype::fp32,
                                     {.name = "largest parameters"});
  search_.at(kind) = rank_.prepare(Kernel::custom(  // shards, largest
      "fp8.amax", {Role::read, Role::write},
      [own](std::span<const View> v) {
        const auto shards = floats(v[0]), largest = floats(v[1]);
        std::fill(largest.begin(), largest.end(), 0.0F);
        for (const Own& piece : own)
          for (const float x : shards.subspan(at(piece.begin), at(piece.elements)))
            largest[piece.matrix] = std::max(largest[piece.matrix], std::fabs(x));
      },
      Flops(static_cast<double>(elements)), bytes_of(elements, Dtype::fp32)));
}

void NarrowGather::find_largest() {
  if (!stale_) return;
  stale_ = false;
  for (const std::size_t kind : {std::size_t{0}, std::size_t{1}}) {
    if (!search_.at(kind)) continue;
    stream_.launch(search_.at(kind), {flat_.all_values(), largest_.at(kind)});
    if (channels_.at(kind) != nullptr)
      stream_.all_reduce(largest_.at(kind), Reduce::max, *channels_.at(kind));
  }
}

Tensor NarrowGather::largest_of(const Part& part) const {
  const Layout& layout = layouts_[part.layout];
  return layout.matrices == 0 ? Tensor()
                              : largest_.at(layout.experts ? 1 : 0)
                                    .slice(part.first_matrix, part.first_matrix + layout.matrices);
}

std::vector<Tensor> NarrowGather::gather(const ParameterGroup& group) {
  find_largest();
  std::vector<Tensor> all;
  const auto messages_of = [this](std::int64_t size) {
    return rank_.allocate(stream_, Label::communication, size, Dtype::uint8,
                          {.name = "narrow parameters"});
  };
  for (std::size_t i = 0; i < group.parts.size(); ++i) {
    const DividedPart& divided = group.parts[i];
    const Part& part = parts_[number_of(group)][i];
    const Layout& layout = layouts_[part.layout];
    const Tensor shard = flat_.value_shard(divided), mine = messages_of(layout.message);
    stream_.launch(layout.encode, {shard, largest_of(part), mine});
    Channel* const channel = channels_.at(divided.experts ? 1 : 0);
    if (channel == nullptr) {
      all.push_back(mine);
      continue;
    }
    all.push_back(messages_of(messages(group, i).value));
    stream_.all_gather(all.back(), mine, *channel);
  }
  return all;
}

void NarrowGather::decode(Stream& stream, const ParameterGroup& group,
                          const std::vector<Tensor>& messages) const {
  for (std::size_t i = 0; i < group.parts.size(); ++i) {
    const Part& part = parts_[number_of(group)][i];
    stream.launch(layouts_[part.layout].decode,
                  {messages[i], largest_of(part), part_of(group.values, group, group.parts[i])});
  }
}

Bytes NarrowGather::messages(const ParameterGroup& group, std::size_t part) const {
  const Layout& layout = layouts_[parts_[number_of(group)][part].layout];
  return Bytes(layout.message * flat_.ranks(layout.experts));
}

Bytes NarrowGather::sent_besides() const {
  Bytes all;
  for (const std::size_t kind : {std::size_t{0}, std::size_t{1}})
    if (channels_.at(kind) != nullptr)
      all += wire_bytes(Collective::all_reduce, bytes_of(matrices_.at(kind), Dtype::fp32),
                        channels_.at(kind)->size());
  return all;
}

}  // namespace orrery

// Differences from torchao: what arrives is decoded to the type that parameters are computed with,
// where torchao keeps fp8 and products take it as it is (`precision.products` casts it anew, to the
// same numbers but for ties); over a tensor group each rank's part of a matrix has a scale of its
// own; the largest magnitude is not kept above 1e-12.
