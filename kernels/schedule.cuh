// The columns of the table of per-step values, as in src/schedule.rs: row = step.
#pragma once
#include "prelude.cuh"

enum Knob { LEARNING_RATE, WEIGHT_DECAY, MOMENTUM, TEMPERATURE, KNOBS };

DEVICE float knob(const float *table, const u32 *step, Knob k) { return table[(u64)*step * KNOBS + k]; }
