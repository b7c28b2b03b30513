#include "backend/device.hpp"

#include <array>
#include <cstring>

namespace orrery {

const char* name(Identity identity) {
  static constexpr std::array<const char*, 8> names{
      "its number", "its coordinate", "its part",        "the time", "its own random numbers",
      "values",     "a second flow",  "control messages"};
  return names.at(static_cast<std::size_t>(identity));
}

namespace {
std::byte* address(const Operand& operand) {
  return static_cast<std::byte*>(operand.storage->data) +
         bytes_of(operand.begin, operand.storage->dtype).value;
}
}  // namespace

void Device::may_change(const Channel& channel) {
  throw Error(Category::unavailable,
              "not available yet in this world: groups that lose or change their ranks")
      .with("channel", channel.name());
}

void Device::read(const Operand& from, void* to) {
  std::memcpy(to, address(from), static_cast<std::size_t>(from.bytes().value));
}

void Device::write(const void* from, const Operand& to) {
  std::memcpy(address(to), from, static_cast<std::size_t>(to.bytes().value));
}

}  // namespace orrery
