# libtorch as one target, Libtorch::Libtorch, from Torch_DIR (the folder of its TorchConfig.cmake), CMAKE_PREFIX_PATH, or
# Torch_DIR in the environment. TorchConfig.cmake itself is not used: that of a wheel with CUDA stops where there is no
# CUDA toolkit, which neither ATen's headers nor the linker need.
if(Torch_DIR)
  find_path(Libtorch_INCLUDE_DIR ATen/ATen.h PATHS "${Torch_DIR}/../../../include" NO_DEFAULT_PATH)
else()
  find_path(Libtorch_INCLUDE_DIR ATen/ATen.h HINTS "$ENV{Torch_DIR}/../../../include")
endif()
foreach(library torch torch_cpu c10)
  find_library(Libtorch_${library}_LIBRARY ${library} HINTS "${Libtorch_INCLUDE_DIR}/../lib" NO_DEFAULT_PATH)
endforeach()

foreach(header headeronly/version.h csrc/api/include/torch/version.h)
  if(EXISTS "${Libtorch_INCLUDE_DIR}/torch/${header}" AND NOT Libtorch_VERSION)
    file(STRINGS "${Libtorch_INCLUDE_DIR}/torch/${header}" lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
    string(REGEX REPLACE "[^0-9;]" "" lines "${lines}")
    list(JOIN lines "." Libtorch_VERSION)
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  Libtorch
  REQUIRED_VARS Libtorch_torch_LIBRARY Libtorch_torch_cpu_LIBRARY Libtorch_c10_LIBRARY Libtorch_INCLUDE_DIR
  VERSION_VAR Libtorch_VERSION
  REASON_FAILURE_MESSAGE "say where it is with -DTorch_DIR=<libtorch>/share/cmake/Torch")
mark_as_advanced(Libtorch_INCLUDE_DIR Libtorch_torch_LIBRARY Libtorch_torch_cpu_LIBRARY Libtorch_c10_LIBRARY)

if(Libtorch_FOUND AND NOT TARGET Libtorch::Libtorch)
  get_filename_component(Libtorch_PREFIX "${Libtorch_INCLUDE_DIR}/.." ABSOLUTE)
  foreach(library torch torch_cpu c10)
    add_library(Libtorch::${library} SHARED IMPORTED)
    set_target_properties(Libtorch::${library} PROPERTIES IMPORTED_LOCATION "${Libtorch_${library}_LIBRARY}")
  endforeach()
  add_library(Libtorch::Libtorch INTERFACE IMPORTED)
  # After the system's own folders: a wheel also carries the headers of fmt, in a version other than the library we link.
  target_compile_options(Libtorch::Libtorch INTERFACE "SHELL:-idirafter \"${Libtorch_INCLUDE_DIR}\"")
  target_link_libraries(Libtorch::Libtorch INTERFACE Libtorch::torch Libtorch::torch_cpu Libtorch::c10)
  # libtorch.so has no symbol that we call, but it is what loads the GPU's kernels.
  target_link_options(Libtorch::Libtorch INTERFACE -Wl,--no-as-needed)
endif()
