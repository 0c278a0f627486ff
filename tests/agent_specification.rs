//! What the container runtime reads: the files in the CDI directory, by form and strategy, and what becomes of them.

mod disk;
mod forms;
mod host;
mod node;
