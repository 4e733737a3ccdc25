//! Kernels that are right pass under every schedule; planted bugs are found, and the messages say where.

mod bugs;
mod collectives;
mod counting;
mod refused;
mod right;
mod support;
