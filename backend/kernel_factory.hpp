// What factories of kernels share.
#pragma once

#include <array>
#include <initializer_list>

#include "backend/kernel.hpp"

namespace orrery::kernel_factory {

inline constexpr Role r = Role::read, w = Role::write, u = Role::update;

inline Kernel make(Op op, Dtype dtype, std::array<std::int64_t, 6> dims,
                   std::initializer_list<Role> roles, const char* label) {
  Kernel kernel;
  kernel.op = op;
  kernel.dtype = dtype;
  kernel.dims = dims;
  kernel.roles = pack_roles(roles);
  kernel.label = label;
  return kernel;
}

}  // namespace orrery::kernel_factory
