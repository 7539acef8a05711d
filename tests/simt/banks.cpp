// Where the lanes of a warp write to shared memory, by the functions that the kernels call: a line for each access, its
// name, the bytes of a lane and 32 places in bytes.
#include "guided_sample/guided_sample_cuda.cu"
#include "spectral_reweight/products_pairs_cuda.h"

using namespace varfast;

template <class Place>
void print(const char* name, int bytes, const Place& place) {
  std::printf("%s | %d |", name, bytes);
  for (int lane = 0; lane < 32; ++lane) std::printf(" %d", place(lane));
  std::printf("\n");
}

int main() {
  for (int at = 0; at < device::kGramTile * device::kInner; at += 32) {
    for (const bool along_k : {false, true}) {
      print("a tile of float64", 8,
            [&](int lane) { return 8 * device::tile_place(at + lane, along_k).in(device::kTilePitch); });
      print("a tile of float32", 4,
            [&](int lane) { return 4 * device::tile_place(at + lane, along_k).in(device::kPairPitch); });
    }
  }
  for (int thread = 0; thread < device::kGuidedThreads; thread += 32) {
    for (const int width : {4, 8}) {
      for (int n = 0; n < width / 4; ++n) {
        print("rows of guided logits", 16,
              [&](int lane) { return 4 * (width * (thread + lane) + device::four_of(thread + lane, width, n)); });
      }
    }
  }
}
