# How every target of this project is built: dependencies, warnings, sanitizers, libraries by folder.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(Eigen3 REQUIRED)
find_package(Boost REQUIRED COMPONENTS program_options)
find_package(ZLIB REQUIRED)

# Debian's package has no CMake configuration; the headers and one library are all there is.
find_path(SIMGRID_INCLUDE simgrid/s4u.hpp REQUIRED)
find_library(SIMGRID_LIBRARY simgrid REQUIRED)
add_library(SimGrid::SimGrid UNKNOWN IMPORTED)
set_target_properties(SimGrid::SimGrid PROPERTIES IMPORTED_LOCATION ${SIMGRID_LIBRARY}
                      INTERFACE_INCLUDE_DIRECTORIES ${SIMGRID_INCLUDE})

# Settings common to all our own code. Floating-point contraction is off everywhere, so that the same expression gives the
# same bits in every world.
function(orrery_target target)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR})
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wconversion -Wshadow -Werror -ffp-contract=off)
  if(ORRERY_SANITIZE)
    target_compile_options(${target} PUBLIC -fsanitize=${ORRERY_SANITIZE} -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${ORRERY_SANITIZE})
  endif()
endfunction()

# One static library `orrery_<name>` from the sources of the named folders (not their subfolders); an interface library while
# a folder holds headers alone.
function(orrery_library name)
  set(patterns "")
  foreach(folder ${ARGN})
    list(APPEND patterns ${PROJECT_SOURCE_DIR}/${folder}/*.cpp)
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS ${patterns})
  if(NOT sources)
    file(WRITE ${PROJECT_BINARY_DIR}/empty_${name}.cpp "")
    set(sources ${PROJECT_BINARY_DIR}/empty_${name}.cpp)
  endif()
  add_library(orrery_${name} STATIC ${sources})
  orrery_target(orrery_${name})
endfunction()

# Value kernels use this machine's vector instructions; bits are promised per build and CPU.
function(orrery_value_kernels target)
  if(ORRERY_NATIVE)
    get_target_property(sources ${target} SOURCES)
    list(FILTER sources INCLUDE REGEX "kernels_[a-z_]*\\.cpp$")
    set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS -march=native)
  endif()
endfunction()
