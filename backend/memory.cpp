// The memory side of `Rank`: allocation, refunds in issue order, what happens when nothing fits,
// and values on the host.
#include <algorithm>
#include <cmath>

#include "backend/device.hpp"
#include "backend/fp8.hpp"
#include "backend/rank.hpp"
#include "backend/world.hpp"

namespace orrery {

Tensor Rank::allocate(Stream& home, Label label, std::int64_t elements, Dtype dtype,
                      const TensorOptions& options, Site site) {
  const Bytes size = bytes_of(elements, dtype);
  if (elements < 0 || (options.values == Values::always && size.value > always_limit_bytes))
    throw Error(Category::invalid_program, "tensor '" + std::string(options.name) + "' of " +
                                               std::to_string(elements) +
                                               " elements: Values::always tensors hold at most " +
                                               std::to_string(always_limit_bytes) + " bytes");
  Ledger& ledger = options.place == Place::device ? device_ledger_ : host_ledger_;
  if (!ledger.fits(size)) wait_for_pending_refunds(size, ledger, site);
  if (!ledger.fits(size))
    throw ledger
        .out_of_memory(size,
                       "tensor '" + std::string(options.name) + "' (" + orrery::name(label) + ")")
        .with("rank", std::to_string(id_))
        .with("site", to_string(site));
  auto* storage = new Storage;
  storage->rank = this;
  storage->elements = elements;
  storage->home = static_cast<std::uint8_t>(home.index());
  storage->dtype = dtype;
  storage->place = options.place;
  storage->values = options.values;
  storage->label = label;
  storage->name = options.name;
  // Its birth counts as a write by the home stream: the memory may be recycled from operations
  // still under way there.
  if (home.ordinal_ > 0)
    storage->accesses =
        Accesses({0, elements, site.file, home.ordinal_, static_cast<std::uint16_t>(site.line),
                  static_cast<std::uint8_t>(home.index()), true, false});
  ledger.charge(*storage);
  Tensor tensor(storage);
  storage->data = device_.map(*storage);
  return tensor;
}

void Rank::reserve(Label label, Bytes size) {
  if (!device_ledger_.fits(size)) wait_for_pending_refunds(size, device_ledger_, Site::here());
  if (!device_ledger_.fits(size))
    throw device_ledger_
        .out_of_memory(size, std::string("the reservation for ") + orrery::name(label))
        .with("rank", std::to_string(id_));
  device_ledger_.charge(label, size);
}

bool Rank::ordered_before_home(const Storage& storage) const {
  const Clock& known = streams_[storage.home]->clock_.now();
  const std::vector<Access>& all = storage.accesses.all();
  return std::all_of(all.begin(), all.end(), [&](const Access& x) {
    return x.stream == storage.home || known[x.stream] >= x.ordinal;
  });
}

void Rank::last_reference_died(Storage& storage) {
  if (ordered_before_home(storage))
    refund(storage);
  else
    pending_refunds_[storage.home].push_back(&storage);
}

void Rank::refund(Storage& storage) {
  (storage.place == Place::device ? device_ledger_ : host_ledger_).refund(storage);
  if (storage.data != nullptr)
    device_.unmap(storage.data, storage, streams_[storage.home]->record());
  delete &storage;
}

void Rank::refund_pending(std::uint32_t home) {
  auto& pending = pending_refunds_[home];
  std::size_t kept = 0;
  for (Storage* storage : pending) {
    if (ordered_before_home(*storage))
      refund(*storage);
    else
      pending[kept++] = storage;
  }
  pending.resize(kept);
}

// Home stream by home stream, the oldest of this account first, until enough is free: which waits
// happen depends on issue order alone, so every world waits alike.
void Rank::wait_for_pending_refunds(Bytes size, Ledger& ledger, Site site) {
  const Place place = &ledger == &device_ledger_ ? Place::device : Place::host;
  for (std::size_t home = 0; home < pending_refunds_.size(); ++home) {
    while (!ledger.fits(size)) {
      const auto& pending = pending_refunds_[home];
      const auto oldest = std::find_if(pending.begin(), pending.end(),
                                       [&](const Storage* s) { return s->place == place; });
      if (oldest == pending.end()) break;
      const std::vector<Access> uses = (*oldest)->accesses.all();
      for (const Access& x : uses)
        if (x.stream != home) wait({x.stream, x.ordinal}, site);
    }
  }
}

std::vector<std::byte> Rank::read_bytes(const Tensor& tensor, Site site) {
  device_.asks(Identity::values, {}, site);
  const Operand& operand = tensor.operand();
  const std::vector<Access> accesses =
      operand.storage->accesses
          .all();  // waiting changes nothing here, but a flow may run meanwhile
  for (const Access& x : accesses)
    if (x.write && x.end > operand.begin && x.begin < operand.end)
      wait({x.stream, x.ordinal}, site);
  if (operand.storage->data == nullptr) return {};
  std::vector<std::byte> bytes(static_cast<std::size_t>(operand.bytes().value));
  device_.read(operand, bytes.data());
  return bytes;
}

void Rank::write_bytes(const Tensor& tensor, std::span<const std::byte> bytes, Site site) {
  device_.asks(Identity::values, {}, site);
  const Operand& operand = tensor.operand();
  if (bytes.size() != static_cast<std::size_t>(operand.bytes().value))
    throw Error(Category::invalid_program, "tensor '" + operand.storage->name + "' has " +
                                               std::to_string(operand.bytes().value) + " bytes, " +
                                               std::to_string(bytes.size()) + " were given");
  const std::vector<Access> accesses = operand.storage->accesses.all();
  for (const Access& x : accesses) wait({x.stream, x.ordinal}, site);
  if (operand.storage->data != nullptr) device_.write(bytes.data(), operand);
}

std::vector<double> Rank::read(const Tensor& tensor, Site site) {
  const std::vector<std::byte> bytes = read_bytes(tensor, site);
  const auto depends_on_values = [&] {
    return Error(Category::invalid_program,
                 "the program reads tensor '" + tensor.operand().storage->name +
                     "', whose values this run does not compute; set run.values: real")
        .with("site", to_string(site));
  };
  if (bytes.empty() && tensor.elements() > 0) throw depends_on_values();
  std::vector<double> values(static_cast<std::size_t>(tensor.elements()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::byte* at = bytes.data() + i * static_cast<std::size_t>(size_of(tensor.dtype()));
    switch (tensor.dtype()) {
      case Dtype::fp32:
        values[i] = *reinterpret_cast<const float*>(at);
        break;
      case Dtype::fp64:
        values[i] = *reinterpret_cast<const double*>(at);
        break;
      case Dtype::bf16:
        values[i] = from_bf16(*reinterpret_cast<const std::uint16_t*>(at));
        break;
      case Dtype::fp16:
        values[i] = from_fp16(*reinterpret_cast<const std::uint16_t*>(at));
        break;
      case Dtype::int32:
        values[i] = *reinterpret_cast<const std::int32_t*>(at);
        break;
      case Dtype::int64:
        values[i] = static_cast<double>(*reinterpret_cast<const std::int64_t*>(at));
        break;
      case Dtype::fp8:
        values[i] = from_fp8(static_cast<std::uint8_t>(*at));
        break;
      case Dtype::uint8:
      case Dtype::fp4:
        values[i] = static_cast<double>(static_cast<std::uint8_t>(*at));
        break;
    }
    if (!computes_values() && std::isnan(values[i])) throw depends_on_values();
  }
  return values;
}

}  // namespace orrery
