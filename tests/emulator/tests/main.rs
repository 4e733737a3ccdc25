//! Kernels that are right pass under every schedule; planted bugs are found, and the messages say where.

mod bugs;
mod right;
mod support;
