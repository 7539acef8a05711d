# The CUDA library. It needs nvcc and torch's headers, but neither a GPU nor a CUDA torch: the stable ABI's device
# functions are found when the library is loaded, beside a torch that has them.

# Compute capabilities whose PTX differs in nothing but its header are compiled to it once, as the oldest of them that is
# asked for: those of a generation, and all from 10.0 on. csrc asks for clusters (9.0) and for nothing newer.
set(cuda_codes "")
set(generations "")
list(SORT VARFAST_CUDA_ARCHS COMPARE NATURAL)
foreach(arch ${VARFAST_CUDA_ARCHS})
  math(EXPR generation "${arch} / 10")
  if(generation GREATER 10)
    set(generation 10)
  endif()
  if(NOT generation IN_LIST generations)
    list(APPEND generations ${generation})
    set(ptx ${arch})
  endif()
  list(APPEND cuda_codes "--generate-code=arch=compute_${ptx},code=sm_${arch}")
endforeach()
list(APPEND cuda_codes "--generate-code=arch=compute_${ptx},code=compute_${ptx}")  # later machines compile it as they load
set(CMAKE_CUDA_ARCHITECTURES OFF)
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # before 3.26, CMake does not know that nvcc 12 has it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
endif()

# An op without a .cu file is served by Triton on GPUs.
set(cuda_sources "")
foreach(op ${VARFAST_OPS})
  if(EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/csrc/${op}/${op}_cuda.cu")
    list(APPEND cuda_sources "csrc/${op}/${op}_cuda.cu")
  endif()
endforeach()

add_library(varfast_cuda SHARED ${cuda_sources} csrc/dse_prior/dse_operator.cpp)
target_include_directories(varfast_cuda PRIVATE csrc)
# -fmad=false: as -ffp-contract=off on the CPU. relaxed-constexpr: std::numeric_limits on the device.
# --threads: guided_sample alone takes as long as all the others, so its architectures are compiled side by side.
set(cuda_flags -O3 ${cuda_codes} --threads=3 -fmad=false --expt-relaxed-constexpr --ptxas-options=-v
  -Xcompiler=-Wall,-Wextra,-ffp-contract=off)
if(VARFAST_WERROR)
  list(APPEND cuda_flags -Xcompiler=-Werror)
endif()
foreach(map ${prefix_maps})
  list(APPEND cuda_flags "-Xcompiler=\"${map}\"")  # quoted for the shell that nvcc calls: a path may have spaces
endforeach()
target_compile_options(varfast_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:${cuda_flags}>")
# USE_CUDA: declares the stable ABI's stream functions.
target_compile_definitions(varfast_cuda PRIVATE VF_REGISTER USE_CUDA)
file(GLOB torch_cuda "${TORCH_DIR}/lib/libtorch_cuda.so")  # absent from a CPU torch
target_link_libraries(varfast_cuda PRIVATE torch_stable "${TORCH_DIR}/lib/libtorch_cpu.so" "${TORCH_DIR}/lib/libc10.so"
  ${torch_cuda})
set_target_properties(varfast_cuda PROPERTIES PREFIX "_" LIBRARY_OUTPUT_DIRECTORY "${VARFAST_OUTPUT}")
