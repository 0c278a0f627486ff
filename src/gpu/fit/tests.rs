//! Placement as a user would notice it. `cases` are tables of the rules, `sets` several GPUs of one container, `boards` the same on
//! boards of eight against brute force, `pods` several
//! containers, `nodes` the choice between nodes, `sequences` how many pods are placed
//! against first-fit, `properties` what must hold for all inputs.

mod boards;
mod build;
mod cases;
mod nodes;
mod pods;
mod properties;
mod sequences;
mod sets;
