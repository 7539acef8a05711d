// What the lanes make of numbers of every kind, one result a line, the same at every width: printed by a program of each
// instruction set, which are compared.
#include <cinttypes>
#include <cmath>
#include <cstdio>

#include "common/lanes64.h"
#include "common/philox_lanes.h"

using namespace varfast;
using namespace varfast::VF_ISA;

namespace {

uint32_t mixed(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return x != x ? 0x7fc00000u : bits;  // one NaN is like another
}

constexpr int kCount = 4096;
float a[kCount + 32], b[kCount + 32];
uint32_t u[kCount + 32];

void show(const char* name, F32 x) {
  float out[kLanes];
  store(out, x);
  for (const float each : out) std::printf("%s %08" PRIx32 "\n", name, bits_of(each));
}
void show(const char* name, U32 x) {
  uint32_t out[kLanes];
  store_u32(out, x);
  for (const uint32_t each : out) std::printf("%s %08" PRIx32 "\n", name, each);
}
void show(const char* name, I32 x) { show(name, as_u32(x)); }
void show(const char* name, Mask x) { show(name, select_u32(x, splat_u32(1), splat_u32(0))); }

template <class T>
void show_halves(const char* name, F32 x) {
  T out[kLanes];
  store(out, x);
  show(name, load(out));
}

}  // namespace

// One operation at a time keeps the lines of each in the order of the lanes.
void run(int chosen);

int main() {
  const float specials[] = {0.0f, -0.0f, 1.0f, -1.5f, 1e-45f, -3e-40f, 65504.0f, 65520.0f, 3e38f, INFINITY, -INFINITY, NAN};
  for (int i = 0; i < kCount + 32; ++i) {
    u[i] = mixed(static_cast<uint32_t>(i));
    memcpy(&a[i], &u[i], 4);
    const uint32_t other = mixed(u[i]);
    memcpy(&b[i], &other, 4);
    if (i % 3 == 0) a[i] = specials[u[i] % 12];
    if (i % 3 != 2) b[i] = specials[other % 12];
    if (i % 7 == 0) b[i] = a[i];
  }
  for (int chosen = 0; chosen <= 25; ++chosen) run(chosen);
}

void run(int chosen) {
  float packed[kCount + 32];
  int kept = 0, counted = 0;
  U64Sum sum = zero_wide();
  for (int i = 0; i < kCount; i += kLanes) {
    const F32 x = load(a + i), y = load(b + i), small = to_f32(as_i32(load_u32(u + i))) * splat(0x1p-16f);
    const U32 w = load_u32(u + i);
    switch (chosen) {
      case 0: show("+", x + y); break;
      case 1: show("-", x - y); break;
      case 2: show("*", x * y); break;
      case 3: show("/", x / y); break;
      case 4: show("fma", fma(x, y, splat(1.25f))); break;
      case 5: show("max", max(x, y)); break;
      case 6: show("min", min(x, y)); break;
      case 7: show("floor", floor(x)); break;
      case 8: show("sqrt", sqrt(x)); break;
      case 9: show("lt", lt(x, y)); break;
      case 10: show("le", le(x, y)); break;
      case 11: show("ge", ge(x, y)); break;
      case 12: show("eq", eq(x, y) | is_nan(x)); break;
      case 13: show("ge_u32", ge_u32(w, load_u32(u + i + 16)) & ~lt(x, y)); break;
      case 14: show("trunc_i32", trunc_i32(small)); break;
      case 15: show("to_f32", to_f32(w)); break;
      case 16: show("popcount", popcount(w)); break;
      case 17: show("shifts", shift_left<3>(as_i32(w)) + shift_right<5>(as_i32(w))); break;
      case 18: show_halves<F16>("f16", x); break;
      case 19: show_halves<BF16>("bf16", x); break;
      case 20: show("share", share_at_most(w, 0.3, 2147483648.0)); break;
      case 21: show("first", first_lanes(1003 - i)); break;
      case 22: show("tail", load_upto(a + i, 1003 - i < 0 ? 0 : 1003 - i)); break;
      case 23: {
        const PhiloxLanes out = philox4x32_lanes({widened(w), splat_words(7), splat_words(1), splat_words(2)}, -5);
        show("philox", joined(out.x0) ^ joined(out.x3));
        break;
      }
      case 24: {
        const Words wide = product(widened(w), splat_words(0xfffffff1u)) + half_whole(widened(w));
        show("words", joined(high_word(wide)) ^ joined(wide));
        break;
      }
      default: {
        const Mask keep = lt(x, y);
        kept += compress(packed + kept, x, keep);
        counted += count(keep);
        sum = add_wide(sum, w, keep);
      }
    }
  }
  for (int i = 0; i < kept; ++i) std::printf("kept %08" PRIx32 "\n", bits_of(packed[i]));
  std::printf("%d %" PRIu64 "\n", counted, total(sum));
}
