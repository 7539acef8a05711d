# The CUDA library. It needs nvcc and torch's headers, but neither a GPU nor a CUDA torch: the stable ABI's device
# functions are found when the library is loaded, beside a torch that has them.
foreach(arch ${VARFAST_CUDA_ARCHS})
  list(APPEND CMAKE_CUDA_ARCHITECTURES "${arch}-real")
endforeach()
list(GET VARFAST_CUDA_ARCHS -1 newest)
list(APPEND CMAKE_CUDA_ARCHITECTURES "${newest}-virtual")  # later machines compile this one's PTX when they load it
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
set(cuda_flags -O3 -fmad=false --expt-relaxed-constexpr --ptxas-options=-v -Xcompiler=-Wall,-Wextra,-ffp-contract=off)
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
