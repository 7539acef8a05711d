// What goes through CUDA's runtime, over a fake of it: "upload N" copies constants with call N failing, "launch BLOCKS
// BYTES N [STATUS]" launches. Prints what became of it.
#include "common/launch_cuda.h"
#include "common/upload.h"

void kernel(int) {}

int main(int, char** argv) {
  const std::string what = argv[1];
  if (what == "upload") {
    fake::fails_at = std::atoi(argv[2]);
    fake::error = static_cast<cudaError_t>(std::atoi(argv[3]));
    const std::vector<uint32_t> words{3, 5, 7};
    const uint32_t* out = nullptr;
    std::string error = "none";
    try {
      out = varfast::to_device(words, "the constants");
    } catch (const varfast::OutOfMemory& failure) {
      error = std::string("out of memory, ") + failure.what();
    } catch (const std::runtime_error& failure) {
      error = failure.what();
    }
    const bool whole = out != nullptr && std::memcmp(out, words.data(), 12) == 0;
    std::printf("%s; copied %d, mode %d, streams %d, memories %d, remembered %d\n", error.c_str(), whole, fake::mode,
                fake::streams, fake::memories, fake::remembered);
    return 0;
  }
  fake::fails_at = std::atoi(argv[4]);
  fake::error = static_cast<cudaError_t>(std::atoi(argv[5]));
  const varfast::Launch shape{std::atoll(argv[2]), 64, std::atoll(argv[3]), nullptr};
  const char* error = varfast::launch(kernel, shape, 1);
  std::printf("%s; blocks %u, granted %zu, remembered %d\n", error == nullptr ? "none" : error,
              fake::launched.attrs == nullptr ? 0 : fake::launched.gridDim.x, fake::granted, fake::remembered);
}
