//! `gaio`: a lock-free proactor.

#![deny(unsafe_code)]

pub mod handoff;
mod sync;
mod sys;
