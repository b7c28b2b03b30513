// Gathering tokens in fp8 between what sequence parallelism divides and the matrices behind it.
//
// What torchao does with a scale per tensor (pytorch/ao, torchao/float8/float8_tensor_parallel.py:
// PrepareFloat8ModuleInput, Float8RowwiseParallel). In place of X <- all_gather X_r, rank r of t:
//
//   a <- max over ranks of max |X_r|       an all-reduce of one fp32 number
//   q_r <- round(L X_r / a);   q <- all_gather q_r;   X <- a q / L
//
// L is the largest number of E4M3 for the inputs of matrices, of E5M2 for gradients of outputs. A
// product in fp8 with a scale per tensor rounds X to the same q, so that no bit of it changes.
//
// Cost per gather, for n elements of B bytes that t ranks share:
//   communication   (t-1)/t n bytes sent per rank in place of B times that, and 8 (t-1)/t
//   memory          n + n/t bytes until the pass ends, beside X; 4 bytes
//   time            the search reads B bytes of each own element, the cast reads B and writes 1;
//   decoding reads 1 byte of every element and writes B, and is in the place of the product's cast
#include "algorithms/models/fp8_gather.hpp"

#include <algorithm>
#include <cmath>

#include "algorithms/codecs/view.hpp"
#include "backend/element.hpp"

namespace orrery {

namespace {

float number(const View& view, std::int64_t i) { return static_cast<float>(element_of(view, i)); }

Kernel amax_kernel(std::int64_t n, Dtype dtype) {  // X, largest
  return Kernel::custom(
      "fp8.amax", {Role::read, Role::write},
      [](std::span<const View> v) {
        float most = 0;
        for (std::int64_t i = 0; i < v[0].elements; ++i)
          most = std::max(most, std::fabs(number(v[0], i)));
        floats(v[1])[0] = most;
      },
      Flops(static_cast<double>(n)), bytes_of(n, dtype));
}

Kernel cast_kernel(std::int64_t n, Dtype dtype, Float8 type) {  // X, largest, message
  return Kernel::custom(
      "fp8.cast", {Role::read, Role::read, Role::write},
      [type](std::span<const View> v) {
        const float scale = fp8_scale(Fp8Scaling::tensor, floats(v[1])[0], type);
        const auto message = bytes(v[2]);
        for (std::int64_t i = 0; i < v[0].elements; ++i)
          message[static_cast<std::size_t>(i)] =
              static_cast<std::byte>(to_fp8(number(v[0], i) * scale, type));
      },
      Flops(static_cast<double>(n)), bytes_of(n, dtype) + Bytes(n));
}

void decode_tokens(std::span<const View> v, Float8 type) {
  const float most = floats(v[1])[0], scale = fp8_scale(Fp8Scaling::tensor, most, type);
  const auto messages = bytes(v[0]);
  for (std::int64_t i = 0; i < v[2].elements; ++i)
    set_element(
        v[2], i,
        from_fp8(static_cast<std::uint8_t>(messages[static_cast<std::size_t>(i)]), type) / scale);
  if (v.size() > 3) set_element(v[3], 0, most);
}

Kernel decode_kernel(std::int64_t n, Dtype dtype, Float8 type,
                     bool keeps) {  // messages, largest, X
  const auto body = [type](std::span<const View> v) { decode_tokens(v, type); };
  const Flops flops(static_cast<double>(n));
  const Bytes moved = Bytes(n) + bytes_of(n, dtype);
  return keeps ? Kernel::custom("fp8.decode", {Role::read, Role::read, Role::write, Role::write},
                                body, flops, moved)
               : Kernel::custom("fp8.decode", {Role::read, Role::read, Role::write}, body, flops,
                                moved);
}

}  // namespace

void gather_in_fp8(Rank& rank, PassProgram& pass, const Line& line, const Fp8GatherSlots& slots,
                   const SlotView& own, const SlotView& all, Float8 type, Dtype dtype,
                   const SlotView& largest) {
  const SlotView messages{slots.messages, 0, all.elements},
      mine{slots.messages, all.elements, own.elements}, most{slots.largest, 0, 1};
  pass.add(rank.prepare(amax_kernel(own.elements, dtype)), {own, most});
  pass.all_reduce(line, most, Reduce::max);
  pass.wait();
  pass.add(rank.prepare(cast_kernel(own.elements, dtype, type)), {own, most, mine});
  pass.all_gather(line, messages, mine);
  std::vector<SlotView> decoded{messages, most, all};
  if (largest.slot >= 0) decoded.push_back(largest);
  pass.add_behind_wait(rank.prepare(decode_kernel(all.elements, dtype, type, largest.slot >= 0)),
                       std::move(decoded));
}

}  // namespace orrery

// Differences from torchao: what arrives is decoded to the type that products round from; a
// gathered input is given up after its product and gathered again for the gradient of its matrix.
