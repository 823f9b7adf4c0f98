//! Tests of the program `paring` from outside: each runs it in a directory of its own, on a tiny model. One test program, because linking several
//! costs more than running them.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod bad_flags; // arguments and recipes that cannot work
mod bad_models; // checkpoints that are broken
mod bad_texts; // texts, token files, importance files and paths that are broken
mod bench; // predicted times on a GPU
mod chain; // the commands one after the other
mod cuda; // the same program on a simulated CUDA device
mod depth; // layers one by one, tasks
mod embedded; // without any file from outside
mod interrupted; // kills, signals, two at once, full disks
mod lab; // a directory, the program in it, and what came out
mod search; // `paring search`, and what is made of its result
mod shards; // importance in parts
mod small; // help, pipes, environment
mod tiny; // the model and the text
mod verify; // `paring prune --verify`
mod whole; // `paring compress`
