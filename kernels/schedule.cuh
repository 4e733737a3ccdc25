// The columns of the table of per-step values, as in src/schedule.rs: row = step.
#pragma once
#include "prelude.cuh"

enum ScheduleColumn { LEARNING_RATE, WEIGHT_DECAY, MOMENTUM, TEMPERATURE, SCHEDULE_COLUMNS };

DEVICE float scheduled(const float *table, const u32 *step, ScheduleColumn column) { return table[(u64)*step * SCHEDULE_COLUMNS + column]; }
