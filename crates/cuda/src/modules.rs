//! The kernels' PTX, part of the program: the user's driver compiles it for the device at hand.

/// Names and texts. `cargo xtask kernels` makes the texts from `kernels/*.cu`.
pub const MODULES: &[(&str, &str)] = &[];
