#include "backend/stream.hpp"

#include "backend/device.hpp"
#include "backend/rank.hpp"

namespace orrery {

namespace {

[[noreturn]] void unordered(const Stream& stream, int rank, const Operand& operand,
                            const Access& earlier, bool write, std::uint32_t ordinal, Site site,
                            const std::string& earlier_stream) {
  const Storage& storage = *operand.storage;
  throw Error(Category::unordered_access, std::string("two operations use tensor '") +
                                              (storage.name.empty() ? "unnamed" : storage.name) +
                                              "' and no event orders them")
      .with("rank", std::to_string(rank))
      .with("first", std::string(earlier.write ? "write" : "read") + " by operation " +
                         std::to_string(earlier.ordinal) + " of stream " + earlier_stream + " (" +
                         to_string(Site{earlier.file, earlier.line}) + ")")
      .with("second", std::string(write ? "write" : "read") + " by operation " +
                          std::to_string(ordinal) + " of stream " + stream.name() + " (" +
                          to_string(site) + ")");
}

void check_operand_count(std::uint32_t roles, std::size_t given, const char* what, Site site) {
  const std::size_t expected = [roles] {
    std::size_t count = 0;
    while (count < static_cast<std::size_t>(max_operands) && role_of(roles, count) != Role::none)
      ++count;
    return count;
  }();
  if (given != expected)
    throw Error(Category::invalid_program,
                std::string(what) + " takes " + std::to_string(expected) + " operands, " +
                    std::to_string(given) + " were given; pass {} for an optional one")
        .with("site", to_string(site));
}

[[noreturn]] void not_for(const Channel& channel, Collective kind, Site site) {
  throw Error(
      Category::invalid_program,
      std::string(name(kind)) + " on channel " + channel.name() + ": " +
          (channel.edge() ? "an edge carries send and receive" : "send and receive need an edge"))
      .with("site", to_string(site));
}

[[noreturn]] void belongs_elsewhere(const Channel& channel, const Stream& owner, const Stream& user,
                                    Site site) {
  throw Error(Category::invalid_program, "channel " + channel.name() + " belongs to stream " +
                                             owner.name() + " of this rank and is used on " +
                                             user.name())
      .with("site", to_string(site));
}

}  // namespace

Stream::Stream(Rank& rank, Device& device, std::uint32_t index, std::string name, Place place)
    : rank_(rank), device_(device), index_(index), name_(std::move(name)), place_(place) {}

// The hazard check, and the bookkeeping that both it and the ledger live on.
void Stream::use(const Operand& operand, bool write, Site site) {
  const Access mine{operand.begin,
                    operand.end,
                    site.file,
                    ordinal_,
                    static_cast<std::uint16_t>(site.line),
                    static_cast<std::uint8_t>(index_),
                    write,
                    operand.racy};
  if (const Access* const earlier = operand.storage->accesses.add(mine, clock_.now()))
    unordered(*this, rank_.id_, operand, *earlier, write, ordinal_, site,
              rank_.streams()[earlier->stream]->name());
}

void Stream::launch(const Prepared& prepared, std::span<const Operand> operands, Site site) {
  const std::size_t count = operands.size();
  if (role_of(prepared.roles, count) != Role::none ||
      (count > 0 && role_of(prepared.roles, count - 1) == Role::none))
    check_operand_count(prepared.roles, count, prepared.kernel->kernel.label, site);
  ++ordinal_;
  for (std::size_t i = 0; i < count; ++i)
    if (operands[i].storage != nullptr)
      use(operands[i], role_of(prepared.roles, i) != Role::read, site);
  rank_.matrix_flops_ += prepared.kernel->cost.matrix;
  ++rank_.operations_;
  device_.launch(index_, *prepared.kernel, operands, prepared.roles);
}

void Stream::launch(const Sequence& sequence, std::span<const Operand> operands, Site site) {
  if (operands.size() != sequence.slots().size()) {
    throw Error(Category::invalid_program, "sequence " + sequence.name() + " takes " +
                                               std::to_string(sequence.slots().size()) +
                                               " operands, " + std::to_string(operands.size()) +
                                               " were given")
        .with("site", to_string(site));
  }
  ++ordinal_;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const Role role = role_of(sequence.roles(), i);
    if (operands[i].storage != nullptr && role != Role::none)
      use(operands[i], role != Role::read, site);
  }
  rank_.matrix_flops_ += sequence.cost().matrix;
  ++rank_.operations_;
  device_.launch(index_, sequence, operands);
}

void Stream::after(Event event, Site site) {
  if (event.stream == index_ || clock_.now()[event.stream] >= event.ordinal) return;
  const Stream& other = *rank_.streams()[event.stream];
  if (event.ordinal > other.ordinal_)
    throw Error(Category::invalid_program, "stream " + name_ +
                                               " is told to wait for an operation of stream " +
                                               other.name_ + " that has not been issued")
        .with("site", to_string(site));
  ++ordinal_;
  clock_.learn(ordinal_, other.clock_.at(static_cast<std::uint32_t>(event.ordinal)),
               rank_.streams().size(), event);
  if (clock_.is_crowded()) rank_.forget_past(*this);
  device_.fence(index_, event);
  rank_.refund_pending(index_);
}

Event Stream::copy(const Tensor& from, const Tensor& to, Site site) {
  if (from.elements() != to.elements() || from.dtype() != to.dtype())
    throw Error(Category::invalid_program, "a copy needs equal sizes and types")
        .with("site", to_string(site));
  ++ordinal_;
  use(from, false, site);
  use(to, true, site);
  ++rank_.operations_;
  device_.copy(index_, from, to);
  return record();
}

void Stream::upload(const Tensor& to, std::initializer_list<double> values, Site site) {
  upload(to, std::span<const double>(values.begin(), values.size()), site);
}

void Stream::upload(const Tensor& to, std::span<const double> values, Site site) {
  if (to.operand().storage->values != Values::always ||
      static_cast<std::int64_t>(values.size()) != to.elements())
    throw Error(Category::invalid_program,
                "an upload fills a Values::always tensor of as many elements as it is given")
        .with("site", to_string(site));
  ++ordinal_;
  use(to, true, site);
  ++rank_.operations_;
  device_.upload(index_, to, values);
}

void Stream::mark_step(std::int64_t step) { device_.mark_step(index_, step); }

Event Stream::communicate(Communication c, Channel& channel, Site site) {
  const bool receiving = c.kind == Collective::receive;
  c.communicator = receiving ? &channel.incoming() : &channel.outgoing();
  c.member = channel.edge() ? (receiving ? 1 : 0) : channel.index_;
  c.patience = channel.patience_;
  c.site = site;
  if (channel.edge() != (c.kind == Collective::send || receiving)) not_for(channel, c.kind, site);
  if (channel.edge()) c.peer = receiving ? 0 : 1;
  const int bound = c.communicator->stream(c.member);
  if (bound < 0)
    c.communicator->bind(c.member, static_cast<int>(index_));
  else if (bound != static_cast<int>(index_))
    belongs_elsewhere(channel, *rank_.streams()[static_cast<std::size_t>(bound)], *this, site);
  rank_.communicated_ = true;
  ++ordinal_;
  const bool in_place =
      c.in.storage == c.out.storage && c.in.begin == c.out.begin && c.in.end == c.out.end;
  if (c.in && !in_place) use(c.in, false, site);
  if (c.out) use(c.out, true, site);
  ++rank_.operations_;
  ChannelUse& use = channel.use(c.kind);
  ++use.calls;
  use.bytes += wire_bytes(c.kind, c.size(), channel.edge() ? 2 : channel.size());
  const bool ordered_kind = !channel.edge() && c.kind != Collective::exchange;
  static const std::vector<std::pair<const Communicator*, std::uint64_t>> unordered;
  device_.communicate(index_, channel, c,
                      ordered_kind ? rank_.issued_elsewhere(channel) : unordered);
  return record();
}

namespace {
void check_shares(std::int64_t whole, std::int64_t part, const Channel& channel, Dtype a, Dtype b,
                  Site site) {
  if (whole != part * channel.size() || a != b)
    throw Error(Category::invalid_program, "on channel " + channel.name() + " of " +
                                               std::to_string(channel.size()) +
                                               " ranks the whole has " + std::to_string(whole) +
                                               " elements and the part " + std::to_string(part))
        .with("site", to_string(site));
}
}  // namespace

Event Stream::all_reduce(const Tensor& tensor, Reduce reduce, Channel& channel, Site site) {
  Communication c;
  c.kind = Collective::all_reduce;
  c.reduce = reduce;
  c.in = c.out = tensor;
  c.elements = tensor.elements();
  c.dtype = tensor.dtype();
  return communicate(c, channel, site);
}

Event Stream::all_gather(const Tensor& out, const Tensor& in, Channel& channel, Site site) {
  check_shares(out.elements(), in.elements(), channel, out.dtype(), in.dtype(), site);
  Communication c;
  c.kind = Collective::all_gather;
  c.in = in;
  c.out = out;
  c.elements = out.elements();
  c.dtype = out.dtype();
  return communicate(c, channel, site);
}

Event Stream::reduce_scatter(const Tensor& out, const Tensor& in, Reduce reduce, Channel& channel,
                             Site site) {
  check_shares(in.elements(), out.elements(), channel, in.dtype(), out.dtype(), site);
  Communication c;
  c.kind = Collective::reduce_scatter;
  c.reduce = reduce;
  c.in = in;
  c.out = out;
  c.elements = in.elements();
  c.dtype = in.dtype();
  return communicate(c, channel, site);
}

Event Stream::broadcast(const Tensor& tensor, int root, Channel& channel, Site site) {
  Communication c;
  c.kind = Collective::broadcast;
  c.root = root;
  c.in = c.out = tensor;
  c.elements = tensor.elements();
  c.dtype = tensor.dtype();
  if (root < 0 || root >= channel.size())
    throw Error(Category::invalid_program,
                "root " + std::to_string(root) + " of a group of " + std::to_string(channel.size()))
        .with("site", to_string(site));
  return communicate(c, channel, site);
}

Event Stream::all_to_all(const Tensor& out, const Tensor& in, Channel& channel, Site site) {
  if (out.elements() != in.elements() || in.elements() % channel.size() != 0 ||
      in.dtype() != out.dtype())
    throw Error(Category::invalid_program,
                "an all_to_all needs equal buffers that divide by the group's size")
        .with("site", to_string(site));
  Communication c;
  c.kind = Collective::all_to_all;
  c.in = in;
  c.out = out;
  c.elements = in.elements();
  c.dtype = in.dtype();
  return communicate(c, channel, site);
}

Event Stream::send(const Tensor& tensor, Channel& edge, Site site) {
  Communication c;
  c.kind = Collective::send;
  c.in = tensor;
  c.elements = tensor.elements();
  c.dtype = tensor.dtype();
  return communicate(c, edge, site);
}

Event Stream::receive(const Tensor& tensor, Channel& edge, Site site) {
  Communication c;
  c.kind = Collective::receive;
  c.out = tensor;
  c.elements = tensor.elements();
  c.dtype = tensor.dtype();
  return communicate(c, edge, site);
}

Event Stream::exchange(const Tensor& mine, const Tensor& theirs, int peer, Channel& channel,
                       Site site) {
  if (mine.elements() != theirs.elements() || mine.dtype() != theirs.dtype() ||
      peer == channel.index_ || peer < 0 || peer >= channel.size())
    throw Error(Category::invalid_program,
                "an exchange needs equal buffers and another member of the group as peer")
        .with("site", to_string(site));
  Communication c;
  c.kind = Collective::exchange;
  c.peer = peer;
  c.in = mine;
  c.out = theirs;
  c.elements = mine.elements();
  c.dtype = mine.dtype();
  return communicate(c, channel, site);
}

}  // namespace orrery
