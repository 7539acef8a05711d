// The sampling half of an emulated call: filters, keys, and room for the results.
#pragma once

#include "files.h"
#include "row/draw_args.h"

struct Drawing {
  std::vector<double> temperature;
  std::vector<int64_t> seeds, positions, ids;
  std::vector<float> logprobs, entropy;
  std::vector<int32_t> kept;

  // Fills args in, whose pointers look into this object.
  void read(Files& files, int64_t batch, int64_t rows, int64_t vocab, varfast::DrawArgs& args) {
    args.rows = rows;
    args.vocab = vocab;
    args.stream = static_cast<uint32_t>(files.read<int64_t>());
    args.purpose = static_cast<uint32_t>(files.read<int64_t>());
    args.rule.temperature_last = files.read<int64_t>() != 0;
    args.rule.top_k = files.read<int64_t>();
    args.draws = files.read<int64_t>();
    const bool with_stats = files.read<int64_t>() != 0;
    args.rule.top_p.value = files.read<double>();
    args.rule.min_p.value = files.read<double>();
    temperature = files.read<double>(batch);
    args.rule.temperature = {temperature.data(), 1, 0, 0.0};
    seeds = files.read<int64_t>(batch);
    positions = files.read<int64_t>(rows);
    args.seeds = seeds.data();
    args.seed_stride = 1;
    args.positions = positions.data();
    args.position_row = 1;
    ids = blank<int64_t>(batch * rows * args.draws);
    logprobs = blank<float>(batch * rows * args.draws);
    kept = blank<int32_t>(batch * rows);
    entropy = blank<float>(batch * rows);
    args.ids = ids.data();
    if (!with_stats) return;
    args.logprobs = logprobs.data();
    args.kept = kept.data();
    args.entropy = entropy.data();
  }
  void write(Files& files) const {
    files.write(ids);
    files.write(logprobs);
    files.write(kept);
    files.write(entropy);
  }
};
